// Puts a view model on the screen. Touches the document only where something differs.

import { type Trouble, troubles } from "./health";
import { HISTORY_MS, type History, shareInView } from "./history";
import type { Kind, View } from "./state";
import { TEXTS } from "./texts";

const SVG = "http://www.w3.org/2000/svg";
/** Digits that change thirty times a second cannot be read. */
const DIGITS_EVERY_MS = 250;
/** A state that flickers is not worth interrupting a screen reader for. */
const SPEAK_AFTER_MS = 600;
const TOAST_MS = 2500;

const ICONS: Record<Kind, string> = {
  in_view: "in_view",
  not_in_view: "not_in_view",
  uncertain: "uncertain",
  no_signal: "no_signal",
  stale: "stale",
  waiting: "waiting",
  offline: "off",
  stopped: "off",
  disconnected: "cut",
  refused: "cut",
  connecting: "waiting",
  paused: "stale",
};

/** Height of a run in the strip, of 40: told apart without colour. Missing: nothing is drawn. */
const HEIGHTS: Partial<Record<Kind, number>> = { in_view: 40, uncertain: 24, not_in_view: 11, no_signal: 3 };

export function duration(ms: number): string {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return TEXTS.seconds(seconds.toFixed(1));
  if (seconds < 60) return TEXTS.seconds(Math.floor(seconds).toFixed(0));
  if (seconds < 3600) return TEXTS.minutes(Math.floor(seconds / 60), Math.floor(seconds % 60).toFixed(0));
  return TEXTS.longAgo;
}

/** Whole seconds: this line is for calm reading. */
function forTime(kind: "in_view" | "not_in_view", ms: number): string {
  const whole = Math.floor(ms / 1000) * 1000;
  return whole < 1000 ? TEXTS.detail.justNow : TEXTS.detail[kind](duration(whole).replace(".0", ""));
}

function reasons(codes: readonly string[]): string {
  return codes.map((code) => TEXTS.reasons[code] ?? TEXTS.reasons[code.replaceAll(" ", "_")] ?? code.replaceAll("_", " ")).join(" \u00b7 ");
}

export function headlineOf(view: View): string {
  return headlineFor(view.kind, view.label);
}

/** @param label the bundle's, where it is the state */
export function headlineFor(kind: Kind, label: string | null): string {
  const known = kind === "in_view" || kind === "not_in_view" ? TEXTS.labels[label ?? ""] : undefined;
  return known ?? TEXTS.headline[kind];
}

function troubleText(trouble: Trouble): string {
  switch (trouble.what) {
    case "hot":
      return TEXTS.health.hot(trouble.celsius);
    case "dropped":
      return TEXTS.health.dropped(trouble.percent);
    case "throttled":
      return reasons([trouble.reason]);
    case "recording":
      return TEXTS.health.recording;
  }
}

/** Why the adapter cannot do what it should, and what may soon keep it from it; empty while all is well. */
function bannerOf(view: View, now: number): string {
  const words = new Set(troubles(view.health, now).map(troubleText));
  const found = [...words].join(" \u00b7 ");
  if (view.device !== "degraded") return found;
  const degraded = [TEXTS.degraded, reasons(view.deviceReasons)].filter(Boolean).join(": ");
  return [degraded, found].filter(Boolean).join(" \u00b7 ");
}

/** The line below the headline, without running times: what a screen reader says. */
function steadyDetail(view: View): string {
  switch (view.kind) {
    case "in_view":
    case "not_in_view":
      return "";
    case "uncertain":
    case "no_signal":
      return reasons(view.reasons) || TEXTS.detail[view.kind];
    case "offline":
    case "stopped":
      return reasons(view.deviceReasons) || TEXTS.detail[view.kind];
    case "stale":
      return "";
    default:
      return TEXTS.detail[view.kind];
  }
}

function detailOf(view: View): string {
  switch (view.kind) {
    case "in_view":
    case "not_in_view":
      return forTime(view.kind, view.forMs ?? 0);
    case "stale":
      return view.quietMs === null ? TEXTS.detail.staleNothing : TEXTS.detail.stale(duration(view.quietMs));
    default:
      return steadyDetail(view);
  }
}

export class Screen {
  private readonly body = document.body;
  private readonly texts = new Map<string, HTMLElement>();
  private readonly use = element("icon").querySelector("use") as SVGUseElement;
  private readonly fill = element("meter-fill");
  private readonly banner = element("banner");
  private readonly strip = document.getElementById("strip") as unknown as SVGSVGElement;
  private kind: Kind | null = null;
  private seq: number | null = null;
  private digitsAt = Number.NEGATIVE_INFINITY;
  private spoken = "";
  private toSpeak = "";
  private speakTimer: number | undefined;

  constructor(device: string) {
    this.write("device", device);
  }

  show(view: View, now: number, roundTripMs: number | null): void {
    const changed = view.kind !== this.kind;
    this.kind = view.kind;
    if (changed) {
      this.body.dataset["kind"] = view.kind;
      this.use.setAttribute("href", `#icon-${ICONS[view.kind]}`);
    }
    if (this.body.dataset["live"] !== String(view.live)) this.body.dataset["live"] = String(view.live);
    const headline = headlineOf(view);
    this.write("headline", headline);
    document.title = TEXTS.title(headline);
    this.write("chip-text", view.live ? TEXTS.live : TEXTS.notLive);
    this.write("adapter", TEXTS.device[view.device]);
    element("adapter").dataset["state"] = view.device;
    if (view.seq !== null && view.seq !== this.seq) {
      this.seq = view.seq;
      this.body.dataset["seq"] = String(view.seq);
    }
    const model = view.model;
    this.write("model-name", model === null ? TEXTS.none : `${model.name} ${model.version}`.trim());
    const banner = bannerOf(view, now);
    if (this.banner.hidden === (banner !== "")) this.banner.hidden = banner === "";
    if (banner !== "") this.write("banner-text", banner);
    if (changed || now - this.digitsAt >= DIGITS_EVERY_MS) {
      this.digitsAt = now;
      this.write("detail", detailOf(view));
      this.write("score", view.score === null ? TEXTS.none : view.score.toFixed(2));
      this.write("age", view.ageMs === null ? TEXTS.none : TEXTS.milliseconds(Math.round(view.ageMs)));
      this.write("round-trip", roundTripMs === null ? TEXTS.none : TEXTS.milliseconds(Math.round(roundTripMs)));
    }
    this.fill.style.transform = `scaleX(${Math.min(1, Math.max(0, view.score ?? 0))})`;
    this.speak(TEXTS.spoken(headline, steadyDetail(view)));
  }

  /** Draw the last minute; the right edge is now. */
  history(history: History, now: number): void {
    const share = shareInView(history, now);
    this.write("summary", share === null ? "" : TEXTS.historySummary(Math.round(share * 100)));
    const x = (at: number): number => 600 * (1 - (now - at) / HISTORY_MS);
    const bars: SVGElement[] = [];
    for (const run of history) {
      const height = HEIGHTS[run.kind];
      if (height === undefined) continue;
      const left = Math.max(0, x(run.from));
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("class", run.kind);
      bar.setAttribute("x", left.toFixed(1));
      bar.setAttribute("y", String(40 - height));
      bar.setAttribute("width", Math.max(1, x(run.to) - left).toFixed(1));
      bar.setAttribute("height", String(height));
      bars.push(bar);
    }
    this.strip.replaceChildren(...bars);
  }

  /** The page has no settings yet, for a reason that the reader can act on. */
  trouble(message: string): void {
    this.write("headline", TEXTS.headline.connecting);
    this.write("detail", message);
    this.speak(TEXTS.spoken(TEXTS.headline.connecting, message));
  }

  /** Tell once, to a screen reader too, what was just done. */
  say(words: string): void {
    this.write("toast", words);
    const toast = element("toast");
    toast.dataset["shown"] = "true";
    window.setTimeout(() => delete toast.dataset["shown"], TOAST_MS);
  }

  private speak(words: string): void {
    if (words === this.toSpeak) return;
    this.toSpeak = words;
    window.clearTimeout(this.speakTimer);
    this.speakTimer = window.setTimeout(() => {
      if (words === this.spoken) return;
      this.spoken = words;
      this.write("spoken", words);
    }, SPEAK_AFTER_MS);
  }

  private write(id: string, words: string): void {
    let target = this.texts.get(id);
    if (target === undefined) {
      target = element(id);
      this.texts.set(id, target);
    }
    if (target.textContent !== words) target.textContent = words;
  }
}

function element(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`index.html has no #${id}`);
  return found;
}
