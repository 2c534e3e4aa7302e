// What the page knows, and what it may say. Pure: messages and monotonic milliseconds in, a view model out.
//
// The rules that matter, each with a test in ../tests/state.test.ts:
// - Only a result that the broker passed on as it was published is fresh; a retained one, handed out on subscribing, never is.
// - A result is shown as live until its age, by the device's own monotonic clock, plus the delay seen on the way, plus
//   the time since it came, by this page's monotonic clock, reaches the limit. No wall clock is trusted for that.
// - A message of an older session than the newest seen changes nothing.
// - What is not understood is never shown as sure.
// - A picture is shown while its own frame is current, and with the regions of that very frame or with none.

import { type Health, readHealth } from "./health";
import { type Box, isBox, readRegions, type Region } from "./regions";

export interface Settings {
  /** Topic levels up to and with the device, without a slash at the end. */
  readonly topic: string;
  readonly staleAfterMs: number;
}

export type LinkState = "connecting" | "connected" | "disconnected" | "refused" | "paused";
export type DeviceState = "online" | "degraded" | "stopped" | "offline";

export type Input =
  | { readonly type: "link"; readonly at: number; readonly link: LinkState }
  | {
      readonly type: "message";
      readonly at: number;
      readonly topic: string;
      /** As the broker sets it when asked not to retain as published: true only for what was stored before. */
      readonly retained: boolean;
      readonly payload: unknown;
    }
  /** The page or the phone slept: whatever is on the screen is from before. */
  | { readonly type: "interrupted"; readonly at: number };

export interface Result {
  readonly state: string;
  readonly score: number | null;
  /** At publishing, by the device's monotonic clock; null where there is no frame. */
  readonly ageMs: number | null;
  readonly seq: number | null;
  readonly reasons: readonly string[];
  readonly regions: readonly Region[];
  /** The scope's bright image in the frame; null: all of it, or unknown. */
  readonly aperture: Box | null;
  readonly receivedAt: number;
  /** When the state began, on this page's clock. */
  readonly since: number;
}

/** What a detection said of its frame, kept for the picture of that frame, which comes later. */
export interface Judged {
  readonly seq: number;
  /** No frame is younger than this says, on this page's clock. */
  readonly exposedAt: number;
  readonly state: string;
  readonly score: number | null;
  readonly regions: readonly Region[];
}

/** How much later than the best of this connection messages come; see `measureDelay`. */
interface Delay {
  readonly ms: number;
  readonly receivedAt: number;
  /** The device's monotonic clock at publishing, milliseconds. */
  readonly sentAt: number;
  /** Since when it has been over the limit. */
  readonly overSince: number | null;
}

export interface Model {
  readonly settings: Settings;
  readonly link: LinkState;
  readonly linkSince: number;
  readonly session: number | null;
  readonly status: { readonly state: DeviceState; readonly reasons: readonly string[] } | null;
  readonly finding: string;
  readonly labels: readonly string[];
  readonly model: { readonly name: string; readonly version: string } | null;
  readonly result: Result | null;
  /** The last detections, oldest first. */
  readonly judged: readonly Judged[];
  readonly delay: Delay | null;
  readonly health: Health | null;
}

export type Kind =
  | "in_view"
  | "not_in_view"
  | "uncertain"
  | "no_signal"
  | "stale"
  | "waiting"
  | "offline"
  | "stopped"
  | LinkProblem;
type LinkProblem = Exclude<LinkState, "connected">;

export interface View {
  readonly kind: Kind;
  /** A frame that was judged is on show and is current. */
  readonly live: boolean;
  /** The bundle's label that is the state, where it is one. */
  readonly label: string | null;
  readonly score: number | null;
  readonly ageMs: number | null;
  /** How long the state has been this. */
  readonly forMs: number | null;
  /** How long ago the last fresh result came, where none is live. */
  readonly quietMs: number | null;
  readonly reasons: readonly string[];
  readonly link: LinkState;
  readonly device: DeviceState | "unknown";
  readonly deviceReasons: readonly string[];
  readonly model: { readonly name: string; readonly version: string } | null;
  readonly seq: number | null;
  readonly regions: readonly Region[];
  readonly aperture: Box | null;
  readonly health: Health | null;
  /** When this view changes by time alone; null where it does not. */
  readonly validUntil: number | null;
}

/** Kept back from the limit for the way to the phone and onto its screen. */
export const PAINT_MARGIN_MS = 100;
/** `no_signal` says nothing about the folds and comes with the heartbeat of one second, so it may stand for two. */
export const NO_SIGNAL_HOLDS_MS = 2500;
/** A way that stays slow this long is better begun anew. */
export const DELAYED_TOO_LONG_MS = 3000;
/** Detections that are kept; a picture is current for a second, and cameras are slower than this. */
const JUDGED = 256;
const DEFAULT_LABELS = ["no_folds", "folds"];
const DEFAULT_FINDING = "folds";
const NO_SIGNAL = "no_signal";

export function initial(settings: Settings, at: number): Model {
  return {
    settings,
    link: "connecting",
    linkSince: at,
    session: null,
    status: null,
    finding: DEFAULT_FINDING,
    labels: DEFAULT_LABELS,
    model: null,
    result: null,
    judged: [],
    delay: null,
    health: null,
  };
}

export function reduce(model: Model, input: Input): Model {
  switch (input.type) {
    case "link":
      return relink(model, input.link, input.at);
    case "interrupted":
      return { ...model, result: null, judged: [], delay: null, linkSince: input.at };
    case "message":
      return receive(model, input.topic, input.retained, input.payload, input.at);
  }
}

function relink(model: Model, link: LinkState, at: number): Model {
  if (link === model.link) return model;
  if (link !== "connected") return { ...model, link, linkSince: at };
  // The broker's retained messages say anew what is true, even after an adapter has forgotten its session number.
  return { ...initial(model.settings, at), link, model: model.model };
}

function receive(model: Model, topic: string, retained: boolean, payload: unknown, at: number): Model {
  const prefix = `${model.settings.topic}/`;
  if (!topic.startsWith(prefix) || !isObject(payload)) return model;
  const session = integer(payload["session"]);
  if (session === null || (model.session !== null && session < model.session)) return model;
  const current = session === model.session ? model : newSession(model, session);
  switch (topic.slice(prefix.length)) {
    case "status":
      return takeStatus(current, payload);
    case "birth":
      return takeBirth(current, payload);
    case "detection":
    case "state":
      return retained ? current : takeResult(measureDelay(current, payload, at), payload, at);
    case "health":
      return retained ? current : { ...current, health: readHealth(payload, current.health, at) };
    default:
      return current;
  }
}

function newSession(model: Model, session: number): Model {
  return { ...model, session, status: null, result: null, judged: [], delay: null, health: null };
}

function takeStatus(model: Model, payload: Json): Model {
  const state = payload["state"];
  if (state !== "online" && state !== "degraded" && state !== "stopped" && state !== "offline") return model;
  return { ...model, status: { state, reasons: strings(payload["reasons"]) } };
}

function takeBirth(model: Model, payload: Json): Model {
  const labels = strings(payload["labels"]);
  const finding = text(payload["finding"]);
  const known = finding !== null && labels.includes(finding);
  return {
    ...model,
    model: identity(payload["model"]) ?? model.model,
    labels: known ? labels : model.labels,
    finding: known ? finding : model.finding,
  };
}

// A connection that hung delivers what it held back in one burst, and every message of it has just arrived. Each says
// when it was sent, by the device's monotonic clock: where two came further apart here than they were sent there, the
// second took that much longer. The first of a connection counts as on time; there is nothing to compare it with.
function measureDelay(model: Model, payload: Json, at: number): Model {
  const sentAt = number(payload["sent_ms"]);
  if (sentAt === null) return model;
  const last = model.delay;
  if (last === null) return { ...model, delay: { ms: 0, receivedAt: at, sentAt, overSince: null } };
  const apart = at - last.receivedAt;
  const longer = apart - (sentAt - last.sentAt);
  // Longer than they came apart is impossible: that would be the device's clock going back.
  const ms = Math.max(0, last.ms + Math.min(apart, longer));
  const over = ms >= limit(model);
  return { ...model, delay: { ms, receivedAt: at, sentAt, overSince: over ? (last.overSince ?? at) : null } };
}

function takeResult(model: Model, payload: Json, at: number): Model {
  const state = text(payload["state"]);
  const age = number(payload["age_ms"]);
  const seq = integer(payload["seq"]);
  if (state === null) return model;
  const previous = model.result;
  // A result that was overtaken on its way is history.
  if (seq !== null && previous !== null && previous.seq !== null && seq < previous.seq) return model;
  const late = delayOf(model) + (age ?? Number.POSITIVE_INFINITY) >= limit(model);
  if (late && state !== NO_SIGNAL) return model;
  const sinceMs = number(payload["since_ms"]);
  const begun = previous !== null && previous.state === state ? previous.since : at;
  const quality = isObject(payload["quality"]) ? payload["quality"] : null;
  // A heartbeat says nothing about places: those of the last frame stand as long as its result.
  const says = "regions" in payload;
  const regions = says ? readRegions(payload["regions"]) : previous?.state === state ? previous.regions : [];
  const aperture = quality === null ? (previous?.aperture ?? null) : isBox(quality["aperture"]) ? quality["aperture"] : null;
  const score = number(payload["score"]);
  const exposedAt = at - (age ?? 0) - delayOf(model);
  return {
    ...model,
    judged: says && seq !== null ? [...model.judged.slice(1 - JUDGED), { seq, exposedAt, state, score, regions }] : model.judged,
    model: identity(payload["model"]) ?? model.model,
    result: {
      state,
      score,
      ageMs: age,
      seq: seq ?? previous?.seq ?? null,
      // Of a frame that was judged, and of the state; both tell why there is no answer.
      reasons: reasonsOf(state, previous, strings(payload["reasons"]), strings(quality?.["reasons"])),
      regions,
      aperture,
      receivedAt: at,
      since: sinceMs === null ? begun : Math.min(begun, at - sinceMs),
    },
  };
}

/** A detection carries no reasons for its state: those of the last heartbeat stay until the state changes. */
function reasonsOf(state: string, previous: Result | null, own: readonly string[], frame: readonly string[]): readonly string[] {
  if (own.length > 0) return own;
  if (frame.length > 0) return frame;
  return previous !== null && previous.state === state ? previous.reasons : [];
}

function limit(model: Model): number {
  return model.settings.staleAfterMs - PAINT_MARGIN_MS;
}

function delayOf(model: Model): number {
  return model.delay?.ms ?? 0;
}

/** When the result on show stops being current, on this page's clock. */
function expires(model: Model, result: Result): number {
  if (result.state === NO_SIGNAL) return result.receivedAt + Math.max(NO_SIGNAL_HOLDS_MS, model.settings.staleAfterMs);
  return result.receivedAt + limit(model) - delayOf(model) - (result.ageMs ?? 0);
}

/** Whether the way from the adapter has been too slow for so long that a new connection is the cure. */
export function delayedTooLong(model: Model, now: number): boolean {
  const since = model.delay?.overSince ?? null;
  return model.link === "connected" && since !== null && now - since >= DELAYED_TOO_LONG_MS;
}

export function present(model: Model, now: number): View {
  const base: View = {
    kind: "stale",
    live: false,
    label: null,
    score: null,
    ageMs: null,
    forMs: null,
    quietMs: model.result === null ? null : now - model.result.receivedAt,
    reasons: [],
    link: model.link,
    device: model.status?.state ?? "unknown",
    deviceReasons: model.status?.reasons ?? [],
    model: model.model,
    seq: null,
    regions: [],
    aperture: null,
    health: model.link === "connected" ? model.health : null,
    validUntil: null,
  };
  if (model.link !== "connected") return { ...base, kind: model.link, device: "unknown", deviceReasons: [] };
  const gone = model.status?.state;
  if (gone === "offline" || gone === "stopped") return { ...base, kind: gone };
  const result = model.result;
  if (result === null) {
    const until = model.linkSince + model.settings.staleAfterMs;
    return now < until ? { ...base, kind: "waiting", validUntil: until } : base;
  }
  const until = expires(model, result);
  if (now >= until) return base;
  const kind = kindOf(model, result.state);
  const judged = kind !== "no_signal";
  return {
    ...base,
    kind,
    live: judged,
    label: kind === "in_view" || kind === "not_in_view" ? result.state : null,
    score: judged ? result.score : null,
    ageMs: judged && result.ageMs !== null ? result.ageMs + delayOf(model) + now - result.receivedAt : null,
    forMs: now - result.since,
    quietMs: null,
    reasons: result.reasons,
    seq: judged ? result.seq : null,
    // Beside any other answer than the finding a box would say "here it is" of what is not, or not surely, there.
    regions: kind === "in_view" ? result.regions : [],
    aperture: judged ? result.aperture : null,
    validUntil: until,
  };
}

/** What is known of a picture's frame. */
export interface PictureFacts {
  /** The detection of this very frame; null: it has not come, and nothing may be drawn over the picture. */
  readonly judged: Judged | null;
  /** Until when the picture is current, on this page's clock. */
  readonly until: number;
  readonly exposedAt: number;
}

/**
 * Look up a picture's frame; null where its age is not known, or it is of another session.
 *
 * A detection that was let go on its way leaves its frame's age unknown; an earlier frame's exposure stands in for it, so
 * that the picture looks older than it is and never younger.
 */
export function picture(model: Model, session: number, seq: number): PictureFacts | null {
  if (model.link !== "connected" || session !== model.session) return null;
  let found: Judged | null = null;
  for (let index = model.judged.length - 1; index >= 0; index--) {
    const each = model.judged[index];
    if (each !== undefined && each.seq <= seq) {
      found = each;
      break;
    }
  }
  if (found === null) return null;
  const own = found.seq === seq ? found : null;
  const shown = own !== null && kindOf(model, own.state) !== "in_view" ? { ...own, regions: [] } : own;
  return { judged: shown, until: found.exposedAt + limit(model), exposedAt: found.exposedAt };
}

/** The kind of answer that a state is. */
export function kindOf(model: Model, state: string): "in_view" | "not_in_view" | "uncertain" | "no_signal" {
  if (state === NO_SIGNAL) return "no_signal";
  if (state === model.finding) return "in_view";
  // A word that the page does not know is not an answer.
  return model.labels.includes(state) ? "not_in_view" : "uncertain";
}

type Json = Record<string, unknown>;

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function integer(value: unknown): number | null {
  return typeof value === "number" && Number.isSafeInteger(value) ? value : null;
}

function text(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

function strings(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each): each is string => typeof each === "string") : [];
}

function identity(value: unknown): { name: string; version: string } | null {
  if (!isObject(value)) return null;
  const name = text(value["name"]);
  return name === null ? null : { name, version: text(value["version"]) ?? "" };
}
