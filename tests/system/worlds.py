"""Where a daemon of the fault table lives: its broker, the way there, its disk. All real; some need root and say so."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import ipaddress
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from edge.broker import Broker, free_ports
from edge.pairing.certificates import Names, ensure_authority, ensure_server

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PORT = 1883  # in a network of its own it is free
_number = itertools.count(os.getpid())


class ImpossibleHereError(Exception):
    """What this machine does not allow; the row says so."""


@dataclass
class World:
    """What a rig is put into.

    Attributes:
        broker: a real mosquitto.
        state: the daemon's folder of state.
        mqtt: its settings of the broker.
        phone: host and port under which the listener finds the broker.
        settings: further settings of the daemon.
        near: the wire between daemon and broker, in a network of its own.
        far: the one between broker and listener.
        disk: a small file system that can be filled.
    """

    broker: Broker
    state: Path
    mqtt: dict[str, Any] = field(default_factory=dict)
    phone: tuple[str, int] = ("", 0)
    settings: dict[str, Any] = field(default_factory=dict)
    near: Wire | None = None
    far: Wire | None = None
    disk: Path | None = None

    def __post_init__(self) -> None:
        self.mqtt = {"port": self.broker.port, **self.mqtt}
        if not self.phone[0]:
            self.phone = (self.broker.host, self.broker.port)


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[World]:
    """A broker on loopback that keeps what is retained, as an adapter's does."""
    with Broker(persistence=True) as broker:
        yield World(broker, folder / "state")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[World]:
    """The daemon's state on a file system of 4 MB, recording on."""
    recording = {"enabled": True, "keep_free_mb": 0, "max_mb": 1, "before_s": 0.5, "after_s": 0.2, "width": 160}
    with _file_system(folder / "state") as disk, Broker(persistence=True) as broker:
        yield World(broker, disk, settings={"recording": recording}, disk=disk)


@contextlib.contextmanager
def brokers_small_disk(folder: Path) -> Iterator[World]:
    """What the broker keeps is on a file system of 4 MB."""
    with _file_system(folder / "kept") as disk:
        kept = ("persistence true", f"persistence_location {disk}/", "autosave_interval 1")
        with Broker(settings=kept) as broker:
            yield World(broker, folder / "state", disk=disk)


@contextlib.contextmanager
def over_tls(folder: Path) -> Iterator[World]:
    """The daemon speaks TLS to the broker and knows its authority from a file."""
    names = Names((), (ipaddress.ip_address("127.0.0.1"),))
    ensure_server(folder / "server", ensure_authority(folder / "ca", "adapter-1", names), names)
    pem, trusted = folder / "server" / "server.pem", folder / "trusted.crt"
    shutil.copy(folder / "server" / "ca.crt", trusted)
    (port,) = free_ports(1)
    lines = (f"listener {port} 127.0.0.1", f"certfile {pem}", f"keyfile {pem}")
    with Broker(persistence=True, settings=lines) as broker:
        yield World(broker, folder / "state", mqtt={"port": port, "ca_file": trusted})


@contextlib.contextmanager
def across_a_network(folder: Path) -> Iterator[World]:
    """Daemon, broker and phone on three sides of two wires, which can be cut, lose packets and delay them."""
    with _namespace() as name, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(name)) for _ in range(2)]
        broker = Broker(persistence=True, settings=(f"listener {_PORT} 0.0.0.0",))
        with _inside(name):
            broker.start()
        stack.callback(broker.close)
        near, far = wires
        yield World(
            broker,
            folder / "state",
            mqtt={"host": near.there, "port": _PORT},
            phone=(far.there, _PORT),
            near=near,
            far=far,
        )


class Wire:
    """Two TUN devices, one here and one in another network namespace, and a thread that carries packets between them.

    The kernel's own netem does the same where its module is there; this is there wherever /dev/net/tun is.

    Attributes:
        there: the other end's address.
        cut: no packet gets through, and nobody is told.
        loss: share of the packets that are lost.
        delay_s: how long each takes.
        carried: packets that got through.
    """

    def __init__(self, namespace: str) -> None:
        number = next(_number)
        self._here, self._other = f"fsa{number % 100000}", f"fsb{number % 100000}"
        third, fourth = number // 60 % 250, 4 * (number % 60)
        self.there = f"198.18.{third}.{fourth + 2}"
        self._namespace, self._own = namespace, f"198.18.{third}.{fourth + 1}"
        self.cut, self.loss, self.delay_s, self.carried = False, 0.0, 0.0, 0
        self._random = random.Random(1)
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._files = [_tun(self._here), _tun(self._other)]
        _ip("link", "set", self._other, "netns", self._namespace)
        for prefix, name, own, other in (
            ((), self._here, self._own, self.there),
            (("-n", self._namespace), self._other, self.there, self._own),
        ):
            _ip(*prefix, "addr", "add", own, "peer", other, "dev", name)
            _ip(*prefix, "link", "set", name, "up")
        self._thread = threading.Thread(target=self._carry, name="wire", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        for handle in self._files:
            os.close(handle)

    def _carry(self) -> None:
        on_the_way: list[tuple[float, int, int, bytes]] = []
        order = itertools.count()
        while not self._stop.is_set():
            wait = min(0.2, max(0.0, on_the_way[0][0] - time.monotonic())) if on_the_way else 0.2
            for handle in select.select(self._files, [], [], wait)[0]:
                packet = os.read(handle, 65536)
                if not self.cut and self._random.random() >= self.loss:
                    to = self._files[1 - self._files.index(handle)]
                    heapq.heappush(on_the_way, (time.monotonic() + self.delay_s, next(order), to, packet))
            while on_the_way and on_the_way[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(on_the_way)
                with contextlib.suppress(OSError):  # the device is down
                    os.write(to, packet)
                    self.carried += 1


def fill(folder: Path) -> None:
    """Leave no room on a file system, down to the last byte."""
    with contextlib.suppress(OSError), (folder / "filler").open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def empty(folder: Path) -> None:
    """Make room again."""
    (folder / "filler").unlink(missing_ok=True)


@contextlib.contextmanager
def _file_system(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True, check=False
    ).returncode:
        raise ImpossibleHereError("a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


@contextlib.contextmanager
def _namespace() -> Iterator[str]:
    name = f"foldsight-{next(_number)}"
    if shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        raise ImpossibleHereError("a network of its own needs ip and /dev/net/tun")
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        raise ImpossibleHereError("a network of its own needs root") from error
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _ip("netns", "del", name)


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread, and the processes that it starts, in a network namespace."""
    library = ctypes.CDLL(None, use_errno=True)

    handles = [os.open(path, os.O_RDONLY) for path in (f"/run/netns/{namespace}", "/proc/thread-self/ns/net")]
    try:
        if library.setns(handles[0], _CLONE_NEWNET):
            raise ImpossibleHereError("entering a network of its own needs root")
        yield
    finally:
        library.setns(handles[1], _CLONE_NEWNET)
        for handle in handles:
            os.close(handle)


def _tun(name: str) -> int:
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return handle


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
