// The time to the adapter and back, by request and response. Pure. Nothing is concluded about either way alone.

/** A request every so often. */
export const ASK_EVERY_MS = 2000;
/** So long after the last answer, the figure is history. */
const HOLDS_MS = 5000;
const MOST_OPEN = 8;

export interface RoundTrip {
  readonly next: number;
  /** By number, when it was asked. */
  readonly open: ReadonlyMap<number, number>;
  readonly answer: { readonly ms: number; readonly at: number } | null;
}

export const NO_ROUND_TRIP: RoundTrip = { next: 1, open: new Map(), answer: null };

/** The next request's number, and what is known after it was sent. */
export function ask(trip: RoundTrip, now: number): [number, RoundTrip] {
  const open = new Map(trip.open).set(trip.next, now);
  for (const oldest of open.keys()) {
    if (open.size <= MOST_OPEN) break;
    open.delete(oldest);
  }
  return [trip.next, { ...trip, next: trip.next + 1, open }];
}

export function answered(trip: RoundTrip, id: number, now: number): RoundTrip {
  const asked = trip.open.get(id);
  if (asked === undefined) return trip;
  return { ...trip, open: new Map([...trip.open].filter(([other]) => other > id)), answer: { ms: now - asked, at: now } };
}

/** Milliseconds; while an answer is overdue, at least as long as it is awaited. Null: not known. */
export function roundTripMs(trip: RoundTrip, now: number): number | null {
  const waiting = Math.max(0, ...[...trip.open.values()].map((asked) => now - asked));
  const known = trip.answer !== null && now - trip.answer.at <= HOLDS_MS ? trip.answer.ms : null;
  if (waiting > Math.max(known ?? 0, 500)) return waiting;
  return known;
}
