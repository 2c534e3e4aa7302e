// What of the adapter's health a person must know now. Pure.

/** The parts of the message `health` that matter here. */
export interface Health {
  readonly at: number;
  readonly frames: number;
  readonly dropped: number;
  readonly temperature: number | null;
  readonly throttled: readonly string[];
  /** One of so many frames is classified. */
  readonly every: number;
  readonly aspect: number | null;
  /** Whether pictures are kept on the adapter. */
  readonly recording: boolean;
  /** Share of the frames since the message before that were dropped, 0 to 1. */
  readonly droppedShare: number;
}

/** The message comes every 5 seconds; after three of them it is history. */
export const HEALTH_HOLDS_MS = 15_000;
/** A Pi slows itself down from 80 degrees on, a Jetson not much later. */
const HOT_C = 80;
const DROPPED_SHARE = 0.1;

export function readHealth(payload: Record<string, unknown>, before: Health | null, at: number): Health {
  const dropped = payload["dropped"];
  const source = payload["source"];
  const ladder = payload["ladder"];
  const sum = isRecord(dropped) ? Object.values(dropped).reduce<number>((total, n) => total + (number(n) ?? 0), 0) : 0;
  const frames = number(payload["frames"]) ?? 0;
  const came = before === null ? 0 : frames - before.frames;
  const lost = before === null ? 0 : sum - before.dropped;
  const width = isRecord(source) ? (number(source["width"]) ?? 0) : 0;
  const height = isRecord(source) ? (number(source["height"]) ?? 0) : 0;
  const throttled = payload["throttled"];
  return {
    at,
    frames,
    dropped: sum,
    temperature: number(payload["temperature_c"]),
    throttled: Array.isArray(throttled) ? throttled.filter((each): each is string => typeof each === "string") : [],
    every: isRecord(ladder) ? (number(ladder["every"]) ?? 1) : 1,
    aspect: width > 0 && height > 0 ? width / height : null,
    recording: isRecord(payload["recording"]),
    droppedShare: came > 0 && lost > 0 ? Math.min(1, lost / came) : 0,
  };
}

export type Trouble =
  | { readonly what: "hot"; readonly celsius: number }
  | { readonly what: "throttled"; readonly reason: string }
  | { readonly what: "dropped"; readonly percent: number }
  | { readonly what: "recording" };

/** Nothing while all is well and no picture is kept: whoever is looked at may know of that. */
export function troubles(health: Health | null, now: number): readonly Trouble[] {
  if (health === null || now - health.at > HEALTH_HOLDS_MS) return [];
  const found: Trouble[] = [];
  if (health.temperature !== null && health.temperature >= HOT_C) found.push({ what: "hot", celsius: Math.round(health.temperature) });
  for (const reason of health.throttled) found.push({ what: "throttled", reason });
  if (health.droppedShare >= DROPPED_SHARE) found.push({ what: "dropped", percent: Math.round(100 * health.droppedShare) });
  if (health.recording) found.push({ what: "recording" });
  return found;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}
