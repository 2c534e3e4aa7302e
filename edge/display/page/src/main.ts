// Joins settings, link, state and screen.

import { keepAwake } from "./awake";
import { type Config, loadConfig } from "./config";
import { type History, record } from "./history";
import { Link } from "./link";
import { delayedTooLong, initial, type Input, type Model, present, reduce } from "./state";
import { TEXTS } from "./texts";
import { Screen } from "./view";

const TICK_MS = 100;
const DRAW_MS = 250;
const SETTINGS_RETRY_MS = 2000;
/** The wall clock running ahead of the monotonic one by this much in a tick: the phone slept, or was set. */
const SLEPT_MS = 2000;

function run(config: Config, screen: Screen): void {
  let model: Model = initial(config, performance.now());
  let history: History = [];
  let frame = 0;
  let expiry = 0;

  const show = (): void => {
    const now = performance.now();
    const view = present(model, now);
    screen.show(view, now);
    // Staleness comes by a timer of its own, not by the next message, tick or animation frame.
    window.clearTimeout(expiry);
    if (view.validUntil !== null) expiry = window.setTimeout(show, Math.max(0, view.validUntil - now));
  };

  const take = (input: Input): void => {
    const before = model;
    model = reduce(model, input);
    if (model === before) return;
    if (input.type === "message") {
      // Many messages can come between two frames of the screen; the last one counts.
      if (frame === 0) {
        frame = requestAnimationFrame(() => {
          frame = 0;
          show();
        });
      }
    } else {
      show();
    }
  };

  const link = new Link(config.url, config.topic, {
    link: (state) => take({ type: "link", at: performance.now(), link: state }),
    message: (topic, retained, payload) =>
      take({ type: "message", at: performance.now(), topic, retained, payload }),
  });

  const begin = (): void => {
    take({ type: "interrupted", at: performance.now() });
    link.restart();
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

  let tickAt = performance.now();
  let wallAt = Date.now();
  let drawnAt = 0;
  window.setInterval(() => {
    const now = performance.now();
    const wall = Date.now();
    // Asleep without having been hidden. Only ever makes the page more careful, so the wall clock may say it.
    const slept = wall - wallAt - (now - tickAt) > SLEPT_MS;
    tickAt = now;
    wallAt = wall;
    if (slept || delayedTooLong(model, now)) begin();
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

async function settings(): Promise<Config> {
  for (;;) {
    try {
      return await loadConfig();
    } catch {
      new Screen("").trouble(TEXTS.detail.noSettings);
      await new Promise((resolve) => window.setTimeout(resolve, SETTINGS_RETRY_MS));
    }
  }
}

keepAwake();
void settings().then((config) => run(config, new Screen(config.device)));
