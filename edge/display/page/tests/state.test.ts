import assert from "node:assert/strict";
import { test } from "node:test";
import { delayedTooLong, initial, type Model, NO_SIGNAL_HOLDS_MS, PAINT_MARGIN_MS, present, reduce } from "../src/state";

const TOPIC = "foldsight/v1/pi-1";
const LIMIT = 1000 - PAINT_MARGIN_MS;

/** A page, a broker and an adapter. */
class Bench {
  model: Model = initial({ topic: TOPIC, staleAfterMs: 1000 }, 0);
  now = 0;
  seq = 0;
  /** The adapter's monotonic clock. */
  clock = 7_000_000;

  constructor() {
    this.link("connected");
  }

  link(link: Model["link"]): void {
    this.model = reduce(this.model, { type: "link", at: this.now, link });
  }

  message(topic: string, payload: unknown, retained = false): void {
    this.model = reduce(this.model, { type: "message", at: this.now, topic: `${TOPIC}/${topic}`, retained, payload });
  }

  detection(state: string, more: Record<string, unknown> = {}, retained = false): void {
    this.seq += 1;
    this.message(
      "detection",
      {
        schema: 1, device: "pi-1", session: 5, seq: this.seq, captured_at: 1.7e9, age_ms: 20, sent_ms: this.clock,
        label: "folds", score: 0.93, state, quality: { reasons: [] }, model: { name: "m", version: "1.0.0" }, ...more,
      },
      retained,
    );
  }

  state(state: string, more: Record<string, unknown> = {}, retained = false): void {
    const payload = { schema: 1, session: 5, seq: this.seq, state, score: 0.9, since_ms: 0, age_ms: 20, sent_ms: this.clock, reasons: [], ...more };
    this.message("state", payload, retained);
  }

  status(state: string, session = 5, reasons: string[] = []): void {
    this.message("status", { schema: 1, session, state, reasons }, true);
  }

  /** Time passes for page and adapter alike. */
  wait(ms: number): void {
    this.now += ms;
    this.clock += ms;
  }

  get view() {
    return present(this.model, this.now);
  }

  get kind() {
    return this.view.kind;
  }
}

test("each state has its kind", () => {
  for (const [state, kind] of [["folds", "in_view"], ["no_folds", "not_in_view"], ["uncertain", "uncertain"], ["no_signal", "no_signal"]] as const) {
    const bench = new Bench();
    bench.detection(state);
    assert.equal(bench.kind, kind);
    assert.equal(bench.view.live, state !== "no_signal");
  }
});

test("a word that the page does not know is uncertain", () => {
  const bench = new Bench();
  bench.detection("splendid");
  assert.equal(bench.kind, "uncertain");
});

test("labels and finding come from the birth", () => {
  const bench = new Bench();
  bench.message("birth", { session: 5, labels: ["a", "b"], finding: "b", model: { name: "x", version: "2" } }, true);
  bench.detection("b");
  assert.equal(bench.kind, "in_view");
  bench.detection("folds");
  assert.equal(bench.kind, "uncertain");
});

test("a result ends by time alone, within a second of its frame", () => {
  const bench = new Bench();
  bench.detection("folds");
  bench.wait(LIMIT - 20 - 1);
  assert.equal(bench.kind, "in_view");
  assert.equal(bench.view.validUntil, LIMIT - 20);
  bench.wait(1);
  assert.equal(bench.kind, "stale");
  assert.equal(bench.view.score, null);
  assert.equal(bench.view.label, null);
});

test("retained results are not live", () => {
  const bench = new Bench();
  bench.status("online");
  bench.state("folds", {}, true);
  bench.detection("folds", {}, true);
  assert.equal(bench.kind, "waiting");
  bench.wait(1000);
  assert.equal(bench.kind, "stale");
});

test("a result that was old, or of unknown age, when it was sent is not fresh", () => {
  for (const age_ms of [LIMIT, 5000, null, "20", Number.NaN]) {
    const bench = new Bench();
    bench.detection("folds", { age_ms });
    assert.notEqual(bench.view.live, true, String(age_ms));
  }
});

test("no signal stands over the heartbeat of one second, and not for ever", () => {
  const bench = new Bench();
  bench.state("no_signal", { seq: null, age_ms: null, reasons: ["frozen"] });
  bench.wait(1200);
  assert.equal(bench.kind, "no_signal");
  assert.deepEqual(bench.view.reasons, ["frozen"]);
  assert.equal(bench.view.live, false);
  bench.wait(NO_SIGNAL_HOLDS_MS);
  assert.equal(bench.kind, "stale");
});

test("no signal replaces a finding at once", () => {
  const bench = new Bench();
  bench.detection("folds");
  bench.state("no_signal", { seq: null, age_ms: 400 });
  assert.equal(bench.kind, "no_signal");
});

test("offline and stopped show at once, degraded stays live", () => {
  for (const gone of ["offline", "stopped"]) {
    const bench = new Bench();
    bench.detection("folds");
    bench.status(gone);
    assert.equal(bench.kind, gone);
    bench.status("online");
    assert.equal(bench.kind, "in_view");
  }
  const bench = new Bench();
  bench.detection("folds");
  bench.status("degraded", 5, ["temperature"]);
  assert.equal(bench.kind, "in_view");
  assert.deepEqual(bench.view.deviceReasons, ["temperature"]);
});

test("the late will of an older session changes nothing", () => {
  const bench = new Bench();
  bench.status("online");
  bench.detection("folds");
  bench.status("offline", 4);
  assert.equal(bench.kind, "in_view");
  assert.equal(bench.view.device, "online");
  bench.detection("no_folds", { session: 4 });
  assert.equal(bench.kind, "in_view");
});

test("a late will that was stored is overruled by the first result of the newer session", () => {
  const bench = new Bench();
  bench.status("offline", 4);
  assert.equal(bench.kind, "offline");
  bench.detection("folds");
  assert.equal(bench.kind, "in_view");
  assert.equal(bench.view.device, "unknown");
});

test("a new session begins with nothing", () => {
  const bench = new Bench();
  bench.detection("folds");
  bench.status("online", 6);
  assert.equal(bench.view.live, false);
  bench.detection("no_folds", { session: 6, seq: 1 });
  assert.equal(bench.kind, "not_in_view");
});

test("an overtaken result is history", () => {
  const bench = new Bench();
  bench.detection("folds", { seq: 10 });
  bench.detection("no_folds", { seq: 9 });
  assert.equal(bench.kind, "in_view");
});

test("a lost connection shows at once, and nothing from before it comes back", () => {
  const bench = new Bench();
  bench.detection("folds");
  bench.link("disconnected");
  assert.equal(bench.kind, "disconnected");
  bench.link("connected");
  assert.equal(bench.kind, "waiting");
});

test("an interruption takes what was on show", () => {
  const bench = new Bench();
  bench.detection("folds");
  bench.model = reduce(bench.model, { type: "interrupted", at: bench.now });
  assert.equal(bench.view.live, false);
});

test("what a hung connection held back is not live when it comes in one burst", () => {
  const bench = new Bench();
  const held: Record<string, unknown>[] = [];
  bench.detection("folds");
  for (let i = 0; i < 150; i++) {
    bench.wait(33);
    held.push({ sent_ms: bench.clock });
  }
  const kinds = held.map((more) => {
    bench.detection("folds", more);
    return bench.kind;
  });
  const firstLive = kinds.indexOf("in_view");
  assert.ok(firstLive >= 120 && firstLive < 125, `live again at the ${firstLive}th of 150`);
  bench.wait(33);
  bench.detection("no_folds");
  assert.equal(bench.kind, "not_in_view");
});

test("neither is a heartbeat of that burst", () => {
  const bench = new Bench();
  bench.state("folds");
  const sent_ms = bench.clock + 100;
  bench.wait(5000);
  bench.state("folds", { sent_ms });
  assert.equal(bench.kind, "stale");
  bench.state("folds");
  assert.equal(bench.kind, "in_view");
});

test("an adapter whose clock jumps, forward or back, stays live", () => {
  for (const step of [3600e3, -3600e3, 500, -500]) {
    const bench = new Bench();
    for (let i = 0; i < 60; i++) {
      bench.wait(33);
      if (i === 30) bench.clock += step;
      bench.detection("folds");
      assert.equal(bench.kind, "in_view", `step ${step}, frame ${i}`);
    }
  }
});

test("a way that stays slow asks for a new connection, which begins anew", () => {
  const bench = new Bench();
  bench.detection("folds");
  const late = 2000;
  bench.wait(late);
  for (let i = 0; i < 100; i++) {
    bench.wait(33);
    bench.detection("folds", { sent_ms: bench.clock - late });
    assert.notEqual(bench.kind, "in_view");
  }
  assert.equal(delayedTooLong(bench.model, bench.now), true);
  bench.link("disconnected");
  bench.link("connected");
  bench.detection("folds");
  assert.equal(bench.kind, "in_view");
  assert.equal(delayedTooLong(bench.model, bench.now), false);
});

test("the age shown holds the age at publishing and the time since", () => {
  const bench = new Bench();
  bench.detection("folds");
  bench.wait(15);
  assert.equal(bench.view.ageMs, 35);
});

test("the time in a state comes from the adapter, and else from here", () => {
  const bench = new Bench();
  bench.detection("folds");
  bench.wait(500);
  bench.detection("folds");
  assert.equal(bench.view.forMs, 500);
  bench.state("folds", { since_ms: 8000 });
  bench.detection("folds");
  assert.equal(bench.view.forMs, 8000);
  bench.detection("no_folds");
  assert.equal(bench.view.forMs, 0);
});

test("the reasons of the frame, or of the last heartbeat, stand until the state changes", () => {
  const bench = new Bench();
  bench.state("uncertain", { reasons: ["between"] });
  bench.detection("uncertain");
  assert.deepEqual(bench.view.reasons, ["between"]);
  bench.detection("uncertain", { quality: { reasons: ["blurred"] } });
  assert.deepEqual(bench.view.reasons, ["blurred"]);
  bench.detection("folds");
  assert.deepEqual(bench.view.reasons, []);
});

test("nonsense changes nothing", () => {
  const bench = new Bench();
  bench.detection("folds");
  const before = bench.model;
  for (const payload of [null, 7, "folds", [], {}, { session: "6" }, { session: 1e300 }, { session: 5.5 }, { session: 5, state: 3 }]) {
    for (const topic of ["detection", "state", "status", "birth", "other"]) bench.message(topic, payload);
  }
  assert.deepEqual(present(bench.model, 0), present(before, 0));
  bench.model = reduce(before, { type: "message", at: 0, topic: "foldsight/v1/pi-2/status", retained: false, payload: { session: 9, state: "offline" } });
  assert.equal(bench.kind, "in_view");
});
