# ruff: noqa: INP001
"""`make rehearse`: a whole adapter, emulated, from an empty disk to detections on a phone, and what it must survive.

An arm64 Debian with systemd, mosquitto and the kernel's virtual camera runs under QEMU's own emulation. The release is
installed in it by its own installer, with no network; a phone pairs and listens from outside through forwarded ports.
Then the daemon is killed, the camera unplugged, the adapter rebooted, its power cut, its software and model updated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import image
import units
from machine import Drive, GuestError, Machine, command
from phone import Heard, Phone, noticed, stale
from prepared import SetupError, alone, folder_of
from stick import KEY, Stick, make

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEVICE = "rehearsal"
HERE = Path(__file__).parent
GUEST = HERE / "emulated"  # put into the guest before the installation: what is slower here than on a board
MAX_AGE_S = 2.0  # latency.max_age_ms in GUEST
HTTPS, MQTT = 8443, 8883  # of the guest: phones.https_port and phones.mqtt_port
BOOT_S, LIVE_S, INSTALL_S = (
    900.0,
    900.0,
    5400.0,
)  # what a busy machine may take; a bound against waiting for ever, no claim
STICK = "/run/stick"
RELEASE = "/var/tmp/foldsight"  # noqa: S108  in the guest, where an operator unpacks
SERVICE = "foldsight-edge.service"


@dataclass
class Row:
    """What one step came to.

    Attributes:
        step: its name.
        noticed_s: from the fault's begin to the first sign of it on the phone; None where nothing is to be noticed.
        sign: which.
        live_s: from the fault's end to the first frame classified afterwards, as the phone hears it.
        started_s: in the guest: from the fault, or the kernel's start, to the daemon's start.
        ready_s: the same to its READY, with the first classified frame.
        stale: messages that spoke of frames which could not be current any more.
        said: in a few words.
        problems: what must not be.
        took_s: the whole step.
    """

    step: str
    noticed_s: float | None = None
    sign: str = ""
    live_s: float | None = None
    started_s: float | None = None
    ready_s: float | None = None
    stale: int | None = None
    said: str = ""
    problems: list[str] = field(default_factory=list)
    took_s: float = 0.0


@dataclass
class Adapter:
    """The emulated adapter, the phone beside it, and what is carried to it."""

    machine: Machine
    phone: Phone
    stick: Stick
    session: int = 0

    def sh(self, script: str, timeout_s: float = 300) -> str:
        """Run a script in the adapter; returns what it said."""
        return self.machine.run(script, timeout_s).said.strip()

    def json(self, line: str, timeout_s: float = 300, *, check: bool = True) -> Any:
        """What a command says as JSON.

        Raises:
            GuestError: it says something else.
        """
        said = self.machine.run(f"{line} --json 2>/run/said", timeout_s, check=check).said
        try:
            return json.loads(said)
        except ValueError as error:
            raise GuestError(f"{line} --json said {(said or self.sh('cat /run/said'))[:200]!r}") from error

    def carried(self, name: str) -> str:
        """The path of something on the stick, which is there."""
        self.sh(f"mkdir -p {STICK} && {{ mountpoint -q {STICK} || mount -o ro /dev/vdb {STICK}; }}")
        return f"{STICK}/{name}"

    def uptime(self) -> float:
        """The guest's monotonic clock, seconds."""
        return float(self.sh("cut -d' ' -f1 /proc/uptime"))

    def service(self) -> dict[str, str]:
        """What systemd says of the daemon."""
        names = "ActiveState,NRestarts,ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic"
        said = self.sh(f"systemctl show {SERVICE} -p {names}")
        return dict(line.partition("=")[::2] for line in said.splitlines())

    def guest_times(self, row: Row, since_s: float) -> None:
        """How long start and READY took, in the guest's own time."""
        deadline = time.monotonic() + LIVE_S
        while (state := self.service())["ActiveState"] != "active" and time.monotonic() < deadline:
            time.sleep(1)
        row.started_s = round(int(state["ExecMainStartTimestampMonotonic"]) / 1e6 - since_s, 1)
        row.ready_s = round(int(state["ActiveEnterTimestampMonotonic"]) / 1e6 - since_s, 1)

    def come_back(self, row: Row, begin: float, end: float, *, restarted: bool = True) -> None:
        """Wait for frames after a fault, and judge what was heard from its begin on.

        Args:
            row: is filled in.
            begin: when the fault was done.
            end: when its cause was gone.
            restarted: whether the daemon must have been started anew.
        """
        before = self.session
        wanted = before + 1 if restarted else before
        found = self.phone.live(end, LIVE_S, wanted)
        until = time.monotonic() if found is None else found.at
        if found is None:
            row.problems.append(f"no frame was classified within {LIVE_S:.0f} s")
        else:
            row.live_s = round(found.at - end, 1)
            self.session = found.session
        time.sleep(2)  # what was held back comes out
        claim = self.phone.first(lambda h: h.claims and h.session >= wanted, end, 0)
        until = until if claim is None else min(until, claim.at)
        sign = noticed(self.phone.heard, begin, until)
        if sign is None:
            row.problems.append("the phone noticed nothing")
        else:
            row.noticed_s, row.sign = sign.seconds, sign.what
        late = stale(self.phone.heard, begin, end if not restarted else until, before, MAX_AGE_S)
        row.stale = len(late)
        if late:
            row.problems.append(f"{len(late)} messages spoke of frames that were past, the first {late[0].body}")


def install(adapter: Adapter, row: Row) -> None:
    """Unpack the release and run its installer, as the operator's page says; then once more."""
    version = adapter.stick.version
    for path in sorted(GUEST.rglob("*")):
        if path.is_file():
            place = f"/{path.relative_to(GUEST)}"
            text = path.read_text(encoding="utf-8")
            adapter.sh(f"mkdir -p $(dirname {place}) && cat >{place} <<'END'\n{text}END")
    adapter.sh("udevadm control --reload && udevadm trigger --settle --action=change --subsystem-match=video4linux")
    key = adapter.carried(f"{KEY}.pub")
    adapter.sh(f"cp {key} /etc/foldsight/{KEY}.pub && mkdir -p {RELEASE}")
    adapter.sh(f"tar xf {adapter.carried(f'foldsight-{version}.tar.gz')} -C {RELEASE}", 1800)
    line = f"{RELEASE}/foldsight-{version}/install.sh --key {key} --device {DEVICE} --no-apt"
    begun = adapter.uptime()
    adapter.sh(f"{{ {line}; echo $? >/run/status; }} 2>&1 | tee /dev/console; exit $(cat /run/status)", INSTALL_S)
    took = adapter.uptime() - begun
    started = adapter.service()["ExecMainStartTimestampMonotonic"]
    again = adapter.sh(line, INSTALL_S)
    if f"{version} is there already" not in again:
        row.problems.append(f"a second installation was not harmless: {again[-200:]}")
    if adapter.service()["ExecMainStartTimestampMonotonic"] != started:
        row.problems.append("a second installation started the daemon anew")
    row.said = f"offline, {took:.0f} s; again is harmless"


def pair(adapter: Adapter, row: Row) -> None:
    """Pair a phone through the code, and hear the first frame."""
    deadline = time.monotonic() + LIVE_S
    while adapter.machine.run("systemctl is-active --quiet foldsight-display", check=False).status:
        if time.monotonic() > deadline:
            raise GuestError(f"the page's server does not come up: {journal(adapter, 'foldsight-display')}")
        time.sleep(2)
    begun = time.monotonic()
    adapter.phone.pair(adapter.json("foldsight pair")["url"])
    found = adapter.phone.live(begun, LIVE_S)
    if found is None:
        raise GuestError(f"no frame was classified within {LIVE_S:.0f} s: {journal(adapter, SERVICE)}")
    row.live_s = round(found.at - begun, 1)
    adapter.session = found.session
    row.said = f"by code, fingerprint and token; {found.body['model']['name']} {found.body['model']['version']}"


def flow(adapter: Adapter, row: Row) -> None:
    """Listen for a while: frames must come, each with an age that can be."""
    begun = time.monotonic()
    time.sleep(30)
    frames = [h.body for h in list(adapter.phone.heard) if h.at > begun and h.topic == "detection"]
    if not frames:
        row.problems.append("no frame was classified in 30 s")
        return
    ages = sorted(body["age_ms"] for body in frames)
    states = sorted({body["state"] for body in frames})
    row.stale = sum(not 0 <= age <= 1000 * MAX_AGE_S for age in ages)
    if row.stale:
        row.problems.append(f"{row.stale} frames were published with ages up to {ages[-1]:.0f} ms")
    rate = len(frames) / 30
    row.said = f"{rate:.1f} frames/s, age {ages[len(ages) // 2]:.0f} ms, at most {ages[-1]:.0f} ms; {', '.join(states)}"


def doctor(adapter: Adapter, row: Row) -> None:
    """Have the adapter look at itself."""
    checks = adapter.json("foldsight doctor", 900, check=False)["checks"]
    for check in checks:
        if check["level"] == "failed":
            row.problems.append(f"doctor: {check['name']}: {check['text']}")
    warned = [check["name"] for check in checks if check["level"] == "warning"]
    row.said = f"{sum(check['level'] == 'ok' for check in checks)} ok"
    if warned:
        row.said += f"; warned: {', '.join(warned)}"


def sandbox(adapter: Adapter, row: Row) -> None:
    """What systemd makes of the units' sandboxes, where they run."""
    said = []
    for name in ("edge", "display"):
        text = adapter.sh(f"systemd-analyze security --no-pager foldsight-{name}.service", 600)
        score = units.exposure(text)
        said.append(f"{name} {score}")
        if score > units.WORST:
            row.problems.append(f"foldsight-{name}.service is exposed {score}, more than {units.WORST}")
    row.said = "systemd-analyze security: " + ", ".join(said)


def kill(adapter: Adapter, row: Row) -> None:
    """SIGKILL to the daemon; systemd starts it anew."""
    begin = time.monotonic()
    since = float(adapter.sh(f"kill -KILL $(systemctl show -p MainPID --value {SERVICE}); cut -d' ' -f1 /proc/uptime"))
    adapter.come_back(row, begin, begin)
    adapter.guest_times(row, since)


def unplug(adapter: Adapter, row: Row) -> None:
    """The camera's driver is unbound under the running daemon, and bound again."""
    driver, session = "/sys/bus/platform/drivers/vivid", adapter.session
    begin = time.monotonic()
    adapter.sh(f"echo vivid.0 >{driver}/unbind")
    time.sleep(8)
    state = next((h.body["state"] for h in reversed(adapter.phone.heard) if h.topic == "state"), "none")
    if state != "no_signal":
        row.problems.append(f"the state without a camera was {state}")
    end = time.monotonic()
    adapter.sh(f"echo vivid.0 >{driver}/bind")
    adapter.come_back(row, begin, end, restarted=False)
    row.said = f"{state}; the {'same process went on' if adapter.session == session else 'daemon was started anew'}"


def reboot(adapter: Adapter, row: Row) -> None:
    """`systemctl reboot`."""
    begin = time.monotonic()
    adapter.machine.tell("systemctl --no-block reboot")
    stopped = _stopped(adapter, begin, BOOT_S)  # until then frames come, and are current
    adapter.come_back(row, stopped, stopped)
    adapter.machine.wait_up(BOOT_S)
    adapter.guest_times(row, 0)
    told = next((h for h in adapter.phone.heard if h.at > begin and h.topic == "status" and not h.retained), None)
    said = told.body["state"] if told else "nothing"
    row.said = f"the phone was told: {said}, {stopped - begin:.0f} s after the order"


def power_cut(adapter: Adapter, row: Row, meanwhile: str = "", after_s: float = 0) -> None:
    """SIGKILL to the emulator, in the middle of whatever it does, and a new start."""
    if meanwhile:
        adapter.machine.tell(meanwhile)
        time.sleep(after_s)
    begin = time.monotonic()
    adapter.machine.cut_power()
    time.sleep(5)
    end = time.monotonic()
    adapter.machine.switch_on()
    adapter.come_back(row, begin, end)
    adapter.machine.wait_up(BOOT_S)
    adapter.guest_times(row, 0)


def model(adapter: Adapter, row: Row) -> None:
    """Install a signed bundle and go back, each taken up by a reload: the connection stays."""
    stick = adapter.stick
    begin = time.monotonic()
    for order, new in ((f"install {adapter.carried(stick.bundle)}", True), ("rollback", False)):
        adapter.sh(f"foldsight bundle {order}", 600)
        asked = time.monotonic()
        adapter.sh(f"systemctl reload {SERVICE}")
        found = adapter.phone.first(partial(_by_model, version=stick.bundle_version, new=new), asked, LIVE_S)
        if found is None:
            row.problems.append(f"after `foldsight bundle {order.split()[0]}` the model did not change")
            return
        if found.session != adapter.session:
            row.problems.append("the daemon was started anew")
            adapter.session = found.session
        row.said += f"{'; ' if row.said else ''}{order.split()[0]} {found.at - asked:.0f} s"
    row.stale = len(stale(adapter.phone.heard, begin, begin, adapter.session, MAX_AGE_S))


def _by_model(heard: Heard, version: str, *, new: bool) -> bool:
    return heard.topic == "detection" and (heard.body["model"]["version"] == version) == new


def update(adapter: Adapter, row: Row) -> None:
    """Update to another release; it passes its trial and stays."""
    begin = time.monotonic()
    adapter.sh(_update(adapter, adapter.stick.better), INSTALL_S)
    _changed(adapter, row, begin, adapter.stick.better)


def bad_update(adapter: Adapter, row: Row) -> None:
    """Update to a release whose daemon fails: the one before comes back by itself."""
    begin = time.monotonic()
    if not adapter.machine.run(_update(adapter, adapter.stick.broken), INSTALL_S, check=False).status:
        row.problems.append("a release that cannot run was called good")
    _changed(adapter, row, begin, adapter.stick.better)


def roll_back(adapter: Adapter, row: Row) -> None:
    """Go back to the release before by hand."""
    begin = time.monotonic()
    adapter.sh("foldsight software rollback", 900)
    _changed(adapter, row, begin, adapter.stick.version)


def cut_update(adapter: Adapter, row: Row) -> None:
    """Cut the power while an update is being installed."""
    power_cut(adapter, row, f"{_update(adapter, adapter.stick.better)} --no-wait >/dev/null 2>&1", 30)
    used = adapter.json("foldsight software list")["current"]
    row.said = f"{used} in use"
    if used not in (adapter.stick.version, adapter.stick.better):
        row.problems.append(f"after the cut {used} was in use")


def uninstall(adapter: Adapter, row: Row) -> None:
    """Remove Foldsight; settings and data stay."""
    adapter.sh(f"{RELEASE}/foldsight-{adapter.stick.version}/install.sh uninstall", 600)
    left = adapter.sh(
        "ls -d /opt/foldsight /usr/local/bin/foldsight /usr/local/lib/systemd/system/foldsight* 2>/dev/null || true;"
        f"systemctl is-active {SERVICE} foldsight-display.service || true"
    ).split()
    if set(left) - {"inactive", "failed", "unknown"}:
        row.problems.append(f"left behind: {' '.join(left)}")
    adapter.sh(
        "test -e /etc/foldsight/edge.yaml && test -e /var/lib/foldsight-phones/ca/ca.pem && "
        "systemctl is-active mosquitto"
    )
    row.said = "settings, certificates and the broker stay"


def _update(adapter: Adapter, version: str) -> str:
    wheels = f"{RELEASE}/foldsight-{adapter.stick.version}/wheels"
    return f"foldsight software update {adapter.carried(f'foldsight-{version}.tar.gz')} --wheelhouse {wheels}"


def _changed(adapter: Adapter, row: Row, begin: float, version: str) -> None:
    """Judge a change of release, from the moment in which the daemon was stopped for it."""
    stopped = _stopped(adapter, begin, 5)
    adapter.come_back(row, stopped, stopped)
    used = adapter.json("foldsight software list")["current"]
    row.said = f"{used} in use"
    if used != version:
        row.problems.append(f"{used} is in use, not {version}")


def _stopped(adapter: Adapter, begin: float, within_s: float) -> float:
    """When the phone was told, after a moment, that the daemon has stopped: just before; else that moment."""
    told = adapter.phone.first(
        lambda h: h.topic == "status" and not h.retained and h.body["state"] in ("stopped", "offline"), begin, within_s
    )
    return begin if told is None else told.at - 0.01


def journal(adapter: Adapter, unit: str) -> str:
    """The last lines of a unit's log, for a sentence."""
    return adapter.sh(f"journalctl --no-pager -o cat -n 4 -u {unit}").replace("\n", " / ")


STEPS: tuple[tuple[str, Callable[[Adapter, Row], None], float], ...] = (
    ("install", install, 300),
    ("pair a phone", pair, 60),
    ("frames over MQTT", flow, 30),
    ("doctor", doctor, 60),
    ("sandbox", sandbox, 20),
    ("daemon killed", kill, 60),
    ("camera unplugged", unplug, 20),
    ("reboot", reboot, 120),
    ("power cut", power_cut, 120),
    ("new model, and back", model, 90),
    ("update", update, 420),
    ("faulty update", bad_update, 420),
    ("back by hand", roll_back, 60),
    ("power cut in an update", cut_update, 150),
    ("uninstall", uninstall, 20),
)
"""Name, what is done, and how long it takes on a quiet machine, seconds: only for the time that is left."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 all as it should be, 1 something was not, or it could not be done and said why.
    """
    given = _parser().parse_args(argv)
    try:
        result = rehearse(given)
    except FoldsightError as error:
        if not isinstance(error, SetupError) or isinstance(error, GuestError):
            print(f"foldsight: {error}", file=sys.stderr)
            return error.exit_code
        print(f"foldsight: no adapter can be emulated on this machine: {error}", file=sys.stderr)
        result = units.look(_tell)
    except KeyboardInterrupt:
        return 130
    if given.setup:
        return 0
    print(json.dumps(result, indent=2) if given.json else "\n".join(table(result)))
    return 1 if any(row["problems"] for row in result["rows"]) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make rehearse", description="A whole adapter, emulated.")
    parser.add_argument(
        "--folder", type=Path, default=folder_of("adapter"), help="of the emulated system (default: %(default)s)"
    )
    parser.add_argument("--suite", choices=image.SUITES, default="bookworm", help="of Debian (default: %(default)s)")
    parser.add_argument("--mirror", help="URL of a Debian mirror (default: debootstrap's)")
    parser.add_argument("--only", action="append", choices=[name for name, *_ in STEPS], metavar="STEP", help=(
        "only these steps, after installation and pairing; may be given again"))  # fmt: skip
    parser.add_argument("--setup", action="store_true", help="only make the emulated system")
    parser.add_argument("--units", action="store_true", help="only look at the units, here, without emulation")
    parser.add_argument("--json", action="store_true")
    return parser


def _tell(line: str) -> None:
    print(f"foldsight: {line}", file=sys.stderr, flush=True)


def rehearse(given: argparse.Namespace) -> dict[str, Any]:
    """Do all of it.

    Raises:
        SetupError: no adapter can be emulated here.
        GuestError: it cannot go on.
    """
    if given.units:
        return units.look(_tell)
    system = image.prepare(given.folder, given.suite, _tell, given.mirror)
    if given.setup:
        print(system.folder)
        return {}
    with alone(given.folder / "running", _tell), tempfile.TemporaryDirectory(dir=given.folder, prefix="work-") as name:
        for old in given.folder.glob("work-*"):
            if old != Path(name):  # of a rehearsal that was killed
                shutil.rmtree(old)
        carried = make(Path(name), system.python, _tell)
        with emulated(system, carried, Path(name)) as adapter:
            about = versions(adapter, system)
            rows = perform(adapter, given.folder / "last", given.only)
    return {"schema": 1, "emulated": True, "about": about, "rows": [asdict(row) for row in rows]}


@contextlib.contextmanager
def emulated(system: image.Image, carried: Stick, folder: Path) -> Iterator[Adapter]:
    """A new adapter that has been switched on; off again at the end, whatever happens."""
    disk = folder / "disk.qcow2"
    line = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(system.disk), str(disk)]
    subprocess.run(line, check=True, capture_output=True)
    https, mqtt = free_ports(2)
    drives = [Drive(disk, "qcow2"), Drive(carried.image, readonly=True)]
    agent, log = folder / "agent", folder / "console.log"
    line = command(system.kernel, system.initrd, drives, agent, {https: HTTPS, mqtt: MQTT})
    machine = Machine(line, agent, log, lambda said: _tell(f"  {said[:110]}") if "foldsight:" in said else None)
    phone = Phone(DEVICE, https, mqtt)
    try:
        _tell("switching the emulated adapter on")
        machine.switch_on()
        machine.wait_up(BOOT_S)
        yield Adapter(machine, phone, carried)
    finally:
        phone.close()
        machine.cut_power()


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody uses."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in taken]


def perform(adapter: Adapter, logs: Path, only: Sequence[str] | None = None) -> list[Row]:
    """All steps, or installation, pairing and some; what ends one is its problem, and the next is tried.

    Args:
        adapter: switched on.
        logs: a folder for what its console and its journal said, and for what the phone heard.
        only: names of steps.
    """
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    steps = [step for step in STEPS if not only or step[0] in (*only, STEPS[0][0], STEPS[1][0])]
    rows: list[Row] = []
    expected = [seconds for *_, seconds in steps]
    for index, (name, do, _) in enumerate(steps):
        _tell(f"[{index + 1}/{len(steps)}] {name}; about {left(expected, [row.took_s for row in rows])} left")
        row, begun = Row(name), time.monotonic()
        rows.append(row)
        try:
            do(adapter, row)
        except (SetupError, KeyError, ValueError) as error:
            row.problems.append(str(error) if isinstance(error, SetupError) else f"not understood: {error!r}")
            if index < 2 or not adapter.machine.on:  # noqa: PLR2004  without these two nothing else means anything
                break
        finally:
            row.took_s = round(time.monotonic() - begun, 1)
            keep(adapter, row, logs)
        for problem in row.problems:
            _tell(f"  BROKEN: {problem[:400]}")
    return rows


def keep(adapter: Adapter, row: Row, logs: Path) -> None:
    """Keep what was said and heard so far: a rehearsal is long, and its machine is gone at its end."""
    if adapter.machine.log.exists():
        shutil.copyfile(adapter.machine.log, logs / "console.log")
    heard = "".join(json.dumps(asdict(h)) + "\n" for h in list(adapter.phone.heard))
    (logs / "heard.jsonl").write_text(heard, encoding="utf-8")
    with (logs / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")
    if row.problems:
        with contextlib.suppress(GuestError):
            said = adapter.machine.run(
                "journalctl --no-pager -b -n 300; systemctl --failed --no-pager", check=False
            ).said
            (logs / f"{row.step.replace(' ', '-')}.journal").write_text(said, encoding="utf-8")


def left(expected: Sequence[float], took: Sequence[float]) -> str:
    """How long the rest takes, as this machine did so far.

    Args:
        expected: seconds of all steps.
        took: seconds of those that are done.
    """
    done = sum(expected[: len(took)])
    pace = sum(took) / done if done else 1.0
    minutes = pace * sum(expected[len(took) :]) / 60
    return "a minute" if minutes <= 1 else f"{math.ceil(minutes)} minutes"


def versions(adapter: Adapter, system: image.Image) -> dict[str, Any]:
    """What ran on what."""
    qemu = subprocess.run(["qemu-system-aarch64", "--version"], capture_output=True, text=True, check=False).stdout
    guest = adapter.machine.run(
        ". /etc/os-release && echo $PRETTY_NAME; uname -r; nproc; python3 --version", check=False
    )
    return {
        "foldsight": adapter.stick.version,
        "qemu": qemu.splitlines()[0] if qemu else "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.0f}",
        "guest": [*guest.said.split("\n")[:4], "virt, cortex-a76"],
        **system.about,
    }


def table(result: dict[str, Any]) -> list[str]:
    """The result for a person."""

    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    if not result["emulated"]:
        return units.table(result)
    head = ("step", "noticed s", "by", "live s", "started s", "ready s", "stale", "")
    rows = [
        head,
        *(
            (
                row["step"],
                number(row["noticed_s"], 1),
                row["sign"] or "-",
                number(row["live_s"], 1),
                number(row["started_s"], 1),
                number(row["ready_s"], 1),
                number(row["stale"], 0),
                "BROKEN" if row["problems"] else row["said"],
            )
            for row in result["rows"]
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    words = (0, 2, len(head) - 1)
    lines = [
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += [f"BROKEN  {row['step']}: {problem}" for row in result["rows"] for problem in row["problems"]]
    about = result["about"]
    return [
        *lines,
        "",
        "noticed: from the fault to its first sign on the phone; live: from its cause's end to the next frame there",
        "started, ready: of the daemon in the guest's own time, from the fault or the kernel's start",
        "stale: messages about frames that could not be current any more",
        f"Foldsight {about['foldsight']} on {'; '.join(about['guest'])}",
        f"{about['qemu']}, its own emulation; this machine: {about['machine']}",
    ]


if __name__ == "__main__":
    sys.exit(main())
