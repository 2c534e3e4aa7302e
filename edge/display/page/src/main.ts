// Joins settings, account, link, state and screen.

import { Alerter } from "./alerts";
import { keepAwake } from "./awake";
import { type Config, loadConfig } from "./config";
import { type History, record } from "./history";
import { type Credential, Link } from "./link";
import { type Invitation, storeAccount, storedAccount, takeInvitation } from "./pairing";
import { Stage } from "./picture";
import { answered, ask, ASK_EVERY_MS, NO_ROUND_TRIP, type RoundTrip, roundTripMs } from "./roundtrip";
import { find, notes, openers, settings } from "./sheets";
import { compose, download } from "./snapshot";
import { delayedTooLong, initial, type Input, kindOf, type Model, present, reduce } from "./state";
import { TEXTS } from "./texts";
import { headlineFor, headlineOf, Screen } from "./view";
import { Welcome } from "./welcome";

const TICK_MS = 100;
const DRAW_MS = 250;
const SETTINGS_RETRY_MS = 2000;
/** The wall clock running ahead of the monotonic one by this much in a tick: the phone slept, or was set. */
const SLEPT_MS = 2000;

function run(config: Config, screen: Screen, account: Credential | null, renew: (why: string) => Promise<Credential | null>): void {
  let model: Model = initial(config, performance.now());
  let history: History = [];
  let trip: RoundTrip = NO_ROUND_TRIP;
  let frame = 0;
  let expiry = 0;
  const alerter = new Alerter();

  const soon = (): void => {
    // Many messages can come between two frames of the screen; the last one counts.
    if (frame !== 0) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      show();
    });
  };

  const stage = new Stage(soon, (seq) => link.seen(seq));
  const snapshot = find("snapshot", HTMLButtonElement);

  const show = (): void => {
    const now = performance.now();
    const view = present(model, now);
    screen.show(view, now, roundTripMs(trip, now));
    const pictureEnds = stage.show(model, view, now);
    const canSnap = stage.current(model, view, now) !== null;
    if (snapshot.disabled === canSnap) snapshot.disabled = !canSnap;
    alerter.show(view.kind);
    // Staleness comes by a timer of its own, not by the next message, tick or animation frame.
    window.clearTimeout(expiry);
    const ends = Math.min(view.validUntil ?? Number.POSITIVE_INFINITY, pictureEnds ?? Number.POSITIVE_INFINITY);
    if (Number.isFinite(ends)) expiry = window.setTimeout(show, Math.max(0, ends - now));
  };

  const take = (input: Input): void => {
    const before = model;
    model = reduce(model, input);
    if (model === before) return;
    if (input.type === "message") soon();
    else show();
  };

  const connect = (credential: Credential | null): Link =>
    new Link(config.url, config.topic, credential, {
      link: (state) => {
        trip = NO_ROUND_TRIP;
        take({ type: "link", at: performance.now(), link: state });
      },
      message: (topic, retained, payload) => take({ type: "message", at: performance.now(), topic, retained, payload }),
      preview: (session, seq, jpeg) => stage.take(session, seq, jpeg),
      answer: (id) => {
        trip = answered(trip, id, performance.now());
      },
    });
  let link = connect(account);

  const begin = (): void => {
    take({ type: "interrupted", at: performance.now() });
    link.restart();
  };

  const reconnect = (credential: Credential | null): void => {
    if (credential === null) return;
    link.stop();
    link = connect(credential);
    link.start();
  };

  // A hidden page is not seen, its timers are slowed, and the phone may sleep at any moment, with its monotonic clock:
  // let go at once, so that what is there when the screen comes back is never from before.
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") {
      begin();
    } else {
      link.stop();
      take({ type: "link", at: performance.now(), link: "paused" });
    }
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) begin();
  });

  snapshot.addEventListener("click", () => {
    const now = performance.now();
    const shown = stage.current(model, present(model, now), now);
    if (shown === null) return;
    const judged = shown.facts.judged;
    const said = judged === null ? TEXTS.none : headlineFor(kindOf(model, judged.state), judged.state);
    const at = new Date();
    download(compose(shown, said, config.name, at), at);
    screen.say(TEXTS.snapshotTaken);
  });
  openers();
  notes(() => headlineOf(present(model, performance.now())));
  settings(alerter);
  find("pair-again", HTMLButtonElement).addEventListener("click", () => void renew(TEXTS.pairing.revoked).then(reconnect));
  const forget = find("forget", HTMLButtonElement);
  forget.hidden = !config.pairing;
  forget.addEventListener("click", () => {
    if (!window.confirm(TEXTS.settings.sure)) return;
    storeAccount(config.device, null);
    location.reload();
  });
  // The code scanned while the page is open: the browser changes the address and nothing else.
  window.addEventListener("hashchange", () => {
    const invitation = takeInvitation();
    if (invitation !== null && config.pairing) void renewWith(config, invitation, "").then(reconnect);
  });

  let tickAt = performance.now();
  let wallAt = Date.now();
  let drawnAt = 0;
  let askedAt = 0;
  window.setInterval(() => {
    const now = performance.now();
    const wall = Date.now();
    // Asleep without having been hidden. Only ever makes the page more careful, so the wall clock may say it.
    const slept = wall - wallAt - (now - tickAt) > SLEPT_MS;
    tickAt = now;
    wallAt = wall;
    if (slept || delayedTooLong(model, now)) begin();
    if (now - askedAt >= ASK_EVERY_MS && model.link === "connected") {
      askedAt = now;
      const [id, next] = ask(trip, now);
      trip = next;
      link.ping(id);
    }
    show();
    history = record(history, present(model, now).kind, now);
    if (now - drawnAt >= DRAW_MS) {
      drawnAt = now;
      screen.history(history, now);
    }
  }, TICK_MS);

  link.start();
  show();
}

let welcome: Welcome | undefined;

async function renewWith(config: Config, invitation: Invitation | null, why: string): Promise<Credential | null> {
  welcome ??= new Welcome();
  const stored = storedAccount(config.device);
  const account = await welcome.ask(config.name, invitation, why, stored !== null);
  if (account !== null) storeAccount(config.device, account);
  return account ?? stored;
}

async function loaded(): Promise<Config> {
  for (;;) {
    try {
      return await loadConfig();
    } catch {
      new Screen("").trouble(TEXTS.detail.noSettings);
      await new Promise((resolve) => window.setTimeout(resolve, SETTINGS_RETRY_MS));
    }
  }
}

async function main(): Promise<void> {
  const invitation = takeInvitation();
  const config = await loaded();
  const screen = new Screen(config.name);
  let account = config.pairing ? storedAccount(config.device) : null;
  if (config.pairing && (invitation !== null || account === null)) account = await renewWith(config, invitation, "");
  run(config, screen, account, (why) => renewWith(config, null, why));
}

keepAwake();
void main();
// Only over a connection that the browser trusts, and there is nothing to be done where it does not.
navigator.serviceWorker?.register("worker.js").catch(() => undefined);
