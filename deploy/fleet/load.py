# ruff: noqa: INP001
"""`make fleet-load`: a thousand simulated adapters on one mosquitto, as much as this machine can take.

Each has a connection of its own with a will, and says what an adapter's bridge hands on (bridge.conf): status and birth
once, the state every second, health every five, an event now and then; with `--detections`, so many results a second on
top, as if there were no broker on the adapters. One dashboard listens to everything. Payloads are as large as real ones
and carry the moment at which they were sent: all runs on one machine, so its monotonic clock tells how late each is.

The clients are a few hundred lines of bytes on purpose: a client library costs more than the broker that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.broker import Broker
from edge.messages import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

SIZES = {"state": 330, "health": 1900, "event": 260, "detection": 900, "birth": 700, "status": 150}
"""Bytes of a payload: what an adapter's own are like."""
STATE_S, HEALTH_S, EVENT_S = 1.0, 5.0, 4.0
_TICK_S = 0.01
_PING_S = 20
_AT_ONCE = 50
_CONNECT, _PUBLISH, _SUBSCRIBE, _PING = 0x10, 0x30, 0x82, b"\xc0\x00"
_CONNACK, _PUBLISHED, _PUBACK, _SUBACK = 2, 3, 4, 9  # kinds of packets: the first half of their first byte


def length(value: int) -> bytes:
    """A variable byte integer (MQTT 5.0, 1.5.5)."""
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def text(value: str) -> bytes:
    """A UTF-8 string (MQTT 5.0, 1.5.4)."""
    encoded = value.encode()
    return struct.pack("!H", len(encoded)) + encoded


def packet(kind: int, body: bytes) -> bytes:
    """A packet with its fixed header."""
    return bytes([kind]) + length(len(body)) + body


def connect(client: str, will: str) -> bytes:
    """CONNECT with a clean start, and a retained will where there is a topic for it."""
    flags = 0x02 | (0x04 | 0x08 | 0x20 if will else 0)
    last = b"\x00" + text(will) + text('{"state": "offline"}') if will else b""
    return packet(_CONNECT, text("MQTT") + bytes([5, flags]) + struct.pack("!H", 60) + b"\x00" + text(client) + last)


def publish(topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, number: int = 1) -> bytes:
    """PUBLISH without properties."""
    identifier = struct.pack("!H", number) if qos else b""
    return packet(_PUBLISH | qos << 1 | retain, text(topic) + identifier + b"\x00" + payload)


def payload(kind: str, number: int) -> bytes:
    """A message of the usual size: when it was sent, its number, and filling."""
    head = b'{"sent_ms":%.1f,"n":%d,"x":"' % (time.monotonic() * 1000, number)
    return head + b"x" * max(0, SIZES[kind] - len(head) - 2) + b'"}'


class Packets:
    """Cuts a stream into packets."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> list[tuple[int, memoryview]]:
        """The packets that are complete: first byte and body."""
        data = self._left + data
        view, at, found = memoryview(data), 0, []
        while at + 1 < len(data):
            size, shift, next_at = 0, 0, at + 1
            while next_at < len(data):
                digit = data[next_at]
                size |= (digit & 127) << shift
                shift += 7
                next_at += 1
                if not digit & 128:
                    break
            else:
                break
            if next_at + size > len(data):
                break
            found.append((data[at], view[next_at : next_at + size]))
            at = next_at + size
        self._left = data[at:]
        return found


class Adapter(asyncio.Protocol):
    """One simulated adapter's connection."""

    def __init__(self, name: str) -> None:
        self.name, self.accepted = name, asyncio.get_running_loop().create_future()
        self.sent: dict[str, int] = {}
        self.unacknowledged = 0
        self.lost = False
        self._packets = Packets()
        self._prefix = f"{ROOT}/{name}/"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who it is."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  for the type checker
        self.transport = transport
        transport.write(connect(f"foldsight-{self.name}", f"{self._prefix}status"))

    def data_received(self, data: bytes) -> None:
        """CONNACK and PUBACK."""
        for kind, body in self._packets.feed(data):
            if kind >> 4 == _CONNACK and not self.accepted.done():
                self.accepted.set_result(body[1] == 0)
            elif kind >> 4 == _PUBACK:
                self.unacknowledged -= 1

    def connection_lost(self, exc: Exception | None) -> None:
        """The broker hung up."""
        del exc
        self.lost = True
        if not self.accepted.done():
            self.accepted.set_result(False)

    def say(self, kind: str, *, qos: int = 0, retain: bool = False) -> None:
        """Publish one message."""
        number = self.sent[kind] = self.sent.get(kind, 0) + 1
        self.unacknowledged += qos
        body = payload(kind, number)
        self.transport.write(publish(self._prefix + kind, body, qos=qos, retain=retain, number=number % 65535 + 1))


@dataclass
class Said:
    """What one process of adapters did."""

    connected: int = 0
    hung_up: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    unacknowledged: int = 0
    behind_s: float = 0.0
    cpu_s: float = 0.0


async def _adapters(port: int, numbers: range, detections: float, seconds: float, pipe: Connection) -> Said:
    loop = asyncio.get_running_loop()
    adapters: list[Adapter] = []
    for at in range(0, len(numbers), _AT_ONCE):
        group = [
            loop.create_connection(lambda n=n: Adapter(f"adapter-{n:04}"), "127.0.0.1", port)  # type: ignore[misc]
            for n in numbers[at : at + _AT_ONCE]
        ]
        adapters += [protocol for _, protocol in await asyncio.gather(*group)]
    accepted = await asyncio.gather(*(a.accepted for a in adapters))
    for adapter in adapters:
        adapter.say("birth", qos=1, retain=True)
        adapter.say("status", qos=1, retain=True)
    pipe.send(sum(accepted))
    await loop.run_in_executor(None, pipe.recv)  # all others are there too
    cpu_s, said = time.process_time(), Said(connected=sum(accepted))
    for adapter in adapters:
        adapter.sent.clear()
    await _talk(adapters, detections, seconds, said)
    await asyncio.sleep(2)
    said.cpu_s = time.process_time() - cpu_s
    for adapter in adapters:
        said.hung_up += adapter.lost
        said.unacknowledged += adapter.unacknowledged
        for kind, count in adapter.sent.items():
            said.sent[kind] = said.sent.get(kind, 0) + count
    return said


async def _talk(adapters: list[Adapter], detections: float, seconds: float, said: Said) -> None:
    """Every adapter at its own moment, so that the load is even."""
    every = [("state", STATE_S, 0, True), ("health", HEALTH_S, 0, False), ("event", EVENT_S, 1, False)]
    if detections:
        every.append(("detection", 1 / detections, 0, False))
    count, begin = len(adapters), time.monotonic()
    turns = [0] * len(every)
    pinged = begin
    while (now := time.monotonic()) - begin < seconds:
        for kind, (name, period, qos, retain) in enumerate(every):
            due = int((now - begin) * count / period)
            for turn in range(turns[kind], due):
                adapters[turn % count].say(name, qos=qos, retain=retain)
            turns[kind] = due
        if now - pinged > _PING_S:
            pinged = now
            for adapter in adapters:
                adapter.transport.write(_PING)
        rest = now + _TICK_S - time.monotonic()
        said.behind_s = max(said.behind_s, -rest)
        await asyncio.sleep(max(0, rest))


def _run_adapters(port: int, numbers: range, detections: float, seconds: float, pipe: Connection) -> None:
    _many_files()
    pipe.send(asyncio.run(_adapters(port, numbers, detections, seconds, pipe)))


class Dashboard(asyncio.Protocol):
    """Listens to all of it, and notes how late each message is."""

    def __init__(self) -> None:
        self.subscribed = asyncio.get_running_loop().create_future()
        self.counts: dict[str, int] = {}
        self.late_ms: list[float] = []
        self.noting = False
        self._packets = Packets()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect and subscribe in one go."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  for the type checker
        self.transport = transport
        subscribe = packet(_SUBSCRIBE, struct.pack("!H", 1) + b"\x00" + text(f"{ROOT}/#") + b"\x00")
        transport.write(connect("dashboard", "") + subscribe)

    def data_received(self, data: bytes) -> None:
        """SUBACK and PUBLISH."""
        now_ms = time.monotonic() * 1000
        for kind, body in self._packets.feed(data):
            if kind >> 4 == _SUBACK and not self.subscribed.done():
                self.subscribed.set_result(True)
            elif kind >> 4 == _PUBLISHED and self.noting and not kind & 1:
                size = body[0] << 8 | body[1]
                topic = bytes(body[2 + size - 12 : 2 + size])
                name = topic.rpartition(b"/")[2].decode()
                self.counts[name] = self.counts.get(name, 0) + 1
                begin = 2 + size + 1 + body[2 + size]  # properties, none longer than 127 bytes here
                sent = bytes(body[begin + 11 : begin + 40]).partition(b",")[0]
                self.late_ms.append(now_ms - float(sent))


async def _dashboard(port: int, pipe: Connection) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    _, dashboard = await loop.create_connection(Dashboard, "127.0.0.1", port)
    await dashboard.subscribed
    pipe.send(True)
    await loop.run_in_executor(None, pipe.recv)
    dashboard.noting, cpu_s = True, time.process_time()
    pipe.send(True)
    await loop.run_in_executor(None, pipe.recv)
    late = sorted(dashboard.late_ms)
    p50, p99, most = (round(_share(late, share), 2) if late else None for share in (0.5, 0.99, 1.0))
    cpu_s = time.process_time() - cpu_s
    return {"counts": dashboard.counts, "p50": p50, "p99": p99, "max": most, "cpu_s": cpu_s}


def _share(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _run_dashboard(port: int, pipe: Connection) -> None:
    pipe.send(asyncio.run(_dashboard(port, pipe)))


@dataclass(frozen=True)
class Row:
    """One load, and what came of it."""

    adapters: int
    detections: float
    connected: int
    seconds: float
    sent_a_second: float
    heard_a_second: float
    lost: int
    lost_percent: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    broker_cpu_percent: float
    broker_mb: float
    hung_up: int
    unacknowledged: int
    behind_ms: float
    tool_cpu_percent: float


def measure(adapters: int, detections: float, seconds: float, processes: int = 1) -> Row:
    """Put one load on a fresh broker."""
    context = multiprocessing.get_context("spawn")
    with Broker(settings=("max_connections -1", "max_queued_messages 1000")) as broker:
        parts = [range(n, adapters, processes) for n in range(processes)]
        pipes, children = [], []
        work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [(_run_dashboard, (broker.port,))]
        work += [(_run_adapters, (broker.port, part, detections, seconds)) for part in parts]
        for target, arguments in work:
            here, there = context.Pipe()
            child = context.Process(target=target, args=(*arguments, there), daemon=True)
            child.start()
            pipes.append(here)
            children.append(child)
        connected = [pipe.recv() for pipe in pipes][1:]
        time.sleep(1.5)  # what is retained has gone round
        before, began = _cpu_s(broker.pid), time.monotonic()
        pipes[0].send("go")
        pipes[0].recv()  # it listens
        for pipe in pipes[1:]:
            pipe.send("go")
        said: list[Said] = [pipe.recv() for pipe in pipes[1:]]
        took_s = time.monotonic() - began
        cpu_s, memory = _cpu_s(broker.pid) - before, _memory_mb(broker.pid)
        pipes[0].send("enough")
        heard = pipes[0].recv()
        for child in children:
            child.join(5)
    sent = sum(sum(s.sent.values()) for s in said)
    came = sum(heard["counts"].values())
    return Row(
        adapters=adapters,
        detections=detections,
        connected=sum(connected),
        seconds=seconds,
        sent_a_second=round(sent / seconds, 1),
        heard_a_second=round(came / seconds, 1),
        lost=sent - came,
        lost_percent=round(100 * (sent - came) / max(1, sent), 3),
        p50_ms=heard["p50"],
        p99_ms=heard["p99"],
        max_ms=heard["max"],
        broker_cpu_percent=round(100 * cpu_s / min(took_s, seconds), 1),
        broker_mb=memory,
        hung_up=sum(s.hung_up for s in said),
        unacknowledged=sum(s.unacknowledged for s in said),
        behind_ms=round(1000 * max(s.behind_s for s in said), 1),
        tool_cpu_percent=round(100 * (sum(s.cpu_s for s in said) + heard["cpu_s"]) / seconds, 1),
    )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return round(int(rows["VmRSS"].split()[0]) * 1.024 / 1000, 1)


def _many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def table(rows: list[Row]) -> str:
    """The rows for a person."""
    head = (
        "results/s each", "connected", "sent/s", "heard/s", "lost", "p50 ms", "p99 ms", "max ms", "broker CPU",
        "broker MB", "tool CPU", "behind ms",
    )  # fmt: skip
    cells = [head] + [
        (
            f"{r.detections:g}", str(r.connected), f"{r.sent_a_second:,.0f}", f"{r.heard_a_second:,.0f}",
            f"{r.lost} ({r.lost_percent:g} %)", str(r.p50_ms), str(r.p99_ms), str(r.max_ms),
            f"{r.broker_cpu_percent:.0f} %", f"{r.broker_mb:g}", f"{r.tool_cpu_percent:.0f} %", f"{r.behind_ms:.0f}",
        )
        for r in rows
    ]  # fmt: skip
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def main() -> int:
    """Measure, and print; 1 where an adapter could not connect or was thrown out."""
    parser = argparse.ArgumentParser(prog="make fleet-load", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument(
        "--detections", type=float, nargs="*", default=[0, 1, 3, 10], help="results a second each, one run per number"
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    _many_files()
    rows = []
    for detections in arguments.detections:
        rows.append(measure(arguments.adapters, detections, arguments.seconds))
        if not arguments.json:
            print(f"{arguments.adapters} adapters, {detections:g} results a second each: done", file=sys.stderr)
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else table(rows))
    return 0 if all(row.connected == row.adapters and not row.hung_up for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
