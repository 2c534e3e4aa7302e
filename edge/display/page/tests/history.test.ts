import assert from "node:assert/strict";
import { test } from "node:test";
import { type History, HISTORY_MS, record, shareInView } from "../src/history";

test("equal kinds grow into one run, others follow without a gap", () => {
  let history: History = [];
  for (let at = 0; at <= 10_000; at += 100) history = record(history, at < 5000 ? "in_view" : "uncertain", at);
  assert.deepEqual(history, [
    { kind: "in_view", from: 0, to: 5000 },
    { kind: "uncertain", from: 5000, to: 10_000 },
  ]);
  assert.equal(shareInView(history, 10_000), 0.5);
});

test("time asleep stays empty", () => {
  const history = record(record(record([], "in_view", 0), "in_view", 100), "in_view", 9000);
  assert.equal(history.length, 2);
});

test("what is older than a minute is forgotten, so that it never grows", () => {
  let history: History = [];
  for (let at = 0; at < 3 * HISTORY_MS; at += 100) history = record(history, (at / 100) % 2 ? "in_view" : "uncertain", at);
  assert.ok(history.length <= HISTORY_MS / 100 + 2);
});

test("a share of next to nothing is not told", () => {
  let history: History = [];
  for (let at = 0; at <= 2000; at += 100) history = record(history, "in_view", at);
  assert.equal(shareInView(history, 2000), null);
  for (let at = 2100; at <= 20_000; at += 100) history = record(history, "stale", at);
  assert.equal(shareInView(history, 20_000), null);
});
