// The last minute as runs of the same kind. Pure.

import type { Kind } from "./state";

export const HISTORY_MS = 60_000;

export interface Run {
  readonly kind: Kind;
  readonly from: number;
  readonly to: number;
}

export type History = readonly Run[];

/** Longest time between two records that is taken as continuous; the page was asleep in a longer one. */
const CONTINUOUS_MS = 1000;

/** Note that `kind` is on show at `now`, and forget what is older than a minute. */
export function record(history: History, kind: Kind, now: number): History {
  const last = history[history.length - 1];
  const begin = now - HISTORY_MS;
  const kept = history.filter((run) => run.to > begin);
  if (last === undefined || now - last.to > CONTINUOUS_MS) return [...kept, { kind, from: now, to: now }];
  const before = kept.slice(0, -1);
  const longer = { ...last, to: now };
  return last.kind === kind ? [...before, longer] : [...before, longer, { kind, from: now, to: now }];
}

/** A share of less time than this says nothing. */
const ENOUGH_MS = 5000;

/** Share of the time with a result in which the finding was in view, 0 to 1; null where there is too little of it. */
export function shareInView(history: History, now: number): number | null {
  let known = 0;
  let inView = 0;
  for (const run of history) {
    const time = Math.max(0, run.to - Math.max(run.from, now - HISTORY_MS));
    if (run.kind === "in_view") inView += time;
    if (run.kind === "in_view" || run.kind === "not_in_view" || run.kind === "uncertain") known += time;
  }
  return known >= ENOUGH_MS ? inView / known : null;
}
