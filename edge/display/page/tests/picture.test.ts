import assert from "node:assert/strict";
import { test } from "node:test";
import { readInfo } from "../src/config";
import { type Health, HEALTH_HOLDS_MS, readHealth, troubles } from "../src/health";
import { Pieces } from "../src/pieces";
import { readInvitation } from "../src/pairing";
import { fit, place, readRegions } from "../src/regions";
import { answered, ask, NO_ROUND_TRIP, type RoundTrip, roundTripMs } from "../src/roundtrip";
import { initial, type Model, PAINT_MARGIN_MS, picture, present, reduce } from "../src/state";

const TOPIC = "foldsight/v1/pi-1";
const LIMIT = 1000 - PAINT_MARGIN_MS;
const FOLDS = { label: "folds", box: [0.4, 0.3, 0.2, 0.4], centre: [0.5, 0.45], area: 0.05, score: 0.9 };

function connected(): Model {
  return reduce(initial({ topic: TOPIC, staleAfterMs: 1000 }, 0), { type: "link", at: 0, link: "connected" });
}

function detect(model: Model, seq: number, at: number, more: Record<string, unknown> = {}): Model {
  const payload = { session: 5, seq, state: "folds", score: 0.9, age_ms: 20, sent_ms: 1000 + at, quality: { reasons: [] }, regions: [FOLDS], ...more };
  return reduce(model, { type: "message", at, topic: `${TOPIC}/detection`, retained: false, payload });
}

test("a picture gets the regions of its own frame and of no other", () => {
  let model = detect(connected(), 1, 100, { regions: [{ ...FOLDS, score: 0.1 }] });
  model = detect(model, 2, 133);
  model = detect(model, 4, 166, { regions: [] });
  assert.equal(picture(model, 5, 1)?.judged?.regions[0]?.score, 0.1);
  assert.equal(picture(model, 5, 2)?.judged?.regions[0]?.score, 0.9);
  assert.equal(picture(model, 5, 3)?.judged, null);
  assert.deepEqual(picture(model, 5, 4)?.judged?.regions, []);
});

test("the age of a picture whose detection was lost is that of an older frame, and unknown before the first", () => {
  let model = detect(connected(), 1, 100);
  model = detect(model, 4, 200);
  assert.equal(picture(model, 5, 3)?.until, 100 - 20 + LIMIT);
  assert.equal(picture(model, 5, 0), null);
});

test("a picture of another session, or over a broken link, is none", () => {
  const model = detect(connected(), 1, 100);
  assert.equal(picture(model, 4, 1), null);
  assert.equal(picture(reduce(model, { type: "link", at: 120, link: "disconnected" }), 5, 1), null);
  assert.equal(picture(reduce(model, { type: "interrupted", at: 120 }), 5, 1), null);
  const next = reduce(model, { type: "message", at: 120, topic: `${TOPIC}/status`, retained: true, payload: { session: 6, state: "online" } });
  assert.equal(picture(next, 5, 1), null);
});

test("a picture that a hung connection held back is as old as its frame", () => {
  let model = detect(connected(), 1, 0);
  for (let seq = 2; seq < 20; seq++) model = detect(model, seq, 3000, { sent_ms: 1000 + 33 * seq });
  assert.ok((picture(model, 5, 19)?.until ?? 0) < 3000);
});

test("no box stands beside an answer that is not the finding", () => {
  for (const state of ["no_folds", "uncertain", "no_signal", "new_word"]) {
    const model = detect(connected(), 1, 100, { state });
    assert.deepEqual(present(model, 110).regions, []);
    assert.deepEqual(picture(model, 5, 1)?.judged?.regions, []);
  }
  assert.equal(present(detect(connected(), 1, 100), 110).regions.length, 1);
});

test("regions end with their result, and outlast a heartbeat of the same state only", () => {
  let model = detect(connected(), 1, 100);
  const beat = { session: 5, seq: 1, state: "folds", score: 0.9, age_ms: 25, sent_ms: 1105, since_ms: 5, reasons: [] };
  model = reduce(model, { type: "message", at: 105, topic: `${TOPIC}/state`, retained: false, payload: beat });
  assert.equal(present(model, 106).regions.length, 1);
  assert.equal(present(model, 105 + LIMIT).regions.length, 0);
});

test("what is no region is left out", () => {
  for (const value of [null, 7, {}, [null], [7], [{ label: 3, box: [0, 0, 1, 1] }], [{ label: "a", box: [0, 0, 0, 1] }], [{ label: "a", box: [0, 0, 1] }], [{ label: "a", box: [0, 0, 1, Number.NaN] }]]) {
    assert.deepEqual(readRegions(value), []);
  }
  assert.deepEqual(readRegions([{ label: "a", box: [0.2, 0.2, 0.4, 0.2] }])[0]?.centre, [0.4, 0.30000000000000004]);
});

test("a frame fits the screen whole, in the middle, in its own shape", () => {
  for (const aspect of [4 / 3, 16 / 9, 1, 3 / 4]) {
    for (const [width, height] of [[780, 500], [500, 780], [1000, 1000]] as const) {
      const on = fit(aspect, width, height);
      assert.ok(on.width <= width && on.height <= height && on.x >= 0 && on.y >= 0);
      assert.ok(Math.abs(on.width / on.height - aspect) < 0.01);
      assert.ok(on.width >= width - 1 || on.height >= height - 1);
      assert.ok(Math.abs(2 * on.x + on.width - width) <= 1 && Math.abs(2 * on.y + on.height - height) <= 1);
    }
  }
  assert.deepEqual(place([0.5, 0.25, 0.25, 0.5], { x: 10, y: 20, width: 400, height: 200 }), { x: 210, y: 70, width: 100, height: 100 });
});

test("a round trip is measured, an overdue one is at least as long as the wait, and an old one is no more", () => {
  let trip: RoundTrip = NO_ROUND_TRIP;
  let id: number;
  assert.equal(roundTripMs(trip, 0), null);
  [id, trip] = ask(trip, 0);
  trip = answered(trip, id, 8);
  assert.equal(roundTripMs(trip, 100), 8);
  assert.equal(answered(trip, id, 50), trip);
  assert.equal(answered(trip, Number.NaN, 50), trip);
  [id, trip] = ask(trip, 2000);
  assert.equal(roundTripMs(trip, 2100), 8);
  assert.equal(roundTripMs(trip, 2900), 900);
  trip = answered(trip, id, 3000);
  assert.equal(roundTripMs(trip, 3000), 1000);
  assert.equal(roundTripMs(trip, 9000), null);
  for (let i = 0; i < 100; i++) [, trip] = ask(trip, 9000 + i);
  assert.ok(trip.open.size <= 8);
});

test("health is told only when it matters, and not for ever", () => {
  const well = { frames: 100, dropped: { replaced: 0, too_old: 0 }, temperature_c: 60, throttled: [], source: { width: 640, height: 480 } };
  const first = readHealth(well, null, 0);
  assert.deepEqual(troubles(first, 0), []);
  assert.equal(first.aspect, 640 / 480);
  const ill = (more: Record<string, unknown>, before: Health | null = first): Health => readHealth({ ...well, frames: 250, ...more }, before, 5000);
  assert.deepEqual(troubles(ill({ temperature_c: 83.4 }), 5000), [{ what: "hot", celsius: 83 }]);
  assert.deepEqual(troubles(ill({ throttled: ["under_voltage"] }), 5000), [{ what: "throttled", reason: "under_voltage" }]);
  assert.deepEqual(troubles(ill({ dropped: { replaced: 20, too_old: 10 } }), 5000), [{ what: "dropped", percent: 20 }]);
  assert.deepEqual(troubles(ill({ dropped: { replaced: 5 } }), 5000), []);
  assert.deepEqual(troubles(ill({ dropped: { replaced: 500 } }, null), 5000), []);
  assert.deepEqual(troubles(ill({ recording: { kept: 0 } }), 5000), [{ what: "recording" }]);
  assert.deepEqual(troubles(ill({ recording: null }), 5000), []);
  assert.deepEqual(troubles(ill({ temperature_c: 99 }), 5001 + HEALTH_HOLDS_MS), []);
  assert.deepEqual(troubles(ill({ temperature_c: "99", throttled: 3, dropped: [], source: null, ladder: null }), 5000), []);
});

test("the invitation is read from an address, a pasted one too", () => {
  assert.deepEqual(readInvitation("https://pi.local:8443/#pair=abc-_1&ca=AA:BB"), { token: "abc-_1", ca: "AA:BB" });
  assert.deepEqual(readInvitation("https://pi.local:8443/#pair=abc"), { token: "abc", ca: "" });
  for (const other of ["", "https://pi.local:8443/", "https://pi.local:8443/#", "#pair=", "pair=abc", "#other=1"]) {
    assert.equal(readInvitation(other), null);
  }
});

test("settings that name no device or no broker are refused", () => {
  const good = { device: "pi-1", name: "Theatre 3", pairing: true, mqtt: { url: "wss://pi.local:8884/" } };
  assert.deepEqual(readInfo(good), { device: "pi-1", name: "Theatre 3", topic: TOPIC, url: "wss://pi.local:8884/", pairing: true, staleAfterMs: 1000 });
  for (const bad of [{ device: "a/b" }, { device: "#" }, { device: 3 }, { mqtt: {} }, { mqtt: { url: "http://a" } }]) {
    assert.throws(() => readInfo({ ...good, ...bad }));
  }
});

test("a picture is put together from its pieces, and one of which a piece was lost never is", () => {
  const pieces = new Pieces();
  const add = (seq: number, part: unknown, parts: unknown, byte: number) => pieces.add({ session: "5", seq: String(seq), part, parts }, Uint8Array.of(byte));
  assert.equal(add(1, "0", "3", 10), null);
  assert.equal(add(1, "1", "3", 11), null);
  assert.deepEqual(add(1, "2", "3", 12), { session: 5, seq: 1, jpeg: Uint8Array.of(10, 11, 12) });
  assert.equal(add(2, "0", "2", 20), null);
  assert.equal(add(3, "1", "2", 31), null);
  assert.equal(add(2, "1", "2", 21), null);
  assert.deepEqual(add(4, "0", "1", 40)?.jpeg, Uint8Array.of(40));
  for (const [part, parts] of [["0", "0"], ["1", "1"], ["-1", "2"], ["0", "1000000"], ["x", "2"], [undefined, "1"], ["0.5", "1"]]) {
    assert.equal(add(5, part, parts, 50), null);
  }
});
