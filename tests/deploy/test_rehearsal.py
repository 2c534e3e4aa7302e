from __future__ import annotations

import base64
import json
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from edge import config as settings

EMULATOR = Path(__file__).parents[2] / "deploy" / "emulator"
sys.path.insert(0, str(EMULATOR))
import image  # noqa: E402  from there
import machine  # noqa: E402
import phone  # noqa: E402
import prepared  # noqa: E402
import rehearse  # noqa: E402
import stick  # noqa: E402
import units  # noqa: E402

# Modules that need earlier ones only: depmod lists what one needs with the first to load last.
needs = st.integers(1, 12).flatmap(
    lambda count: st.tuples(*(st.sets(st.integers(0, n - 1)) if n else st.just(set()) for n in range(count)))
)


@tried(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is
@given(needs, st.data())
def test_modules_are_loaded_after_what_they_need(direct: tuple[set[int], ...], data: st.DataObject) -> None:
    closed: list[set[int]] = []
    for inner in direct:
        closed.append(inner.union(*(closed[number] for number in inner)))
    listed = "".join(
        f"kernel/m-{number}.ko.xz: {' '.join(f'kernel/m-{n}.ko.xz' for n in sorted(inner, reverse=True))}\n"
        for number, inner in enumerate(closed)
    )
    wanted = data.draw(st.lists(st.sampled_from(range(len(direct))), unique=True))
    order = image.load_order(listed, "kernel/inside.ko\n", [*(f"m_{number}" for number in wanted), "inside"])
    place = {int(file.partition("-")[2].partition(".")[0]): index for index, file in enumerate(order)}
    assert len(place) == len(order)
    assert set(place) == set(wanted).union(*(closed[number] for number in wanted))
    assert all(place[needed] < at for number, at in place.items() for needed in closed[number])


def test_a_module_that_the_kernel_lacks_is_named() -> None:
    with pytest.raises(prepared.SetupError, match="has no module vivid"):
        image.load_order("kernel/ext4.ko: kernel/jbd2.ko\n", "kernel/loop.ko\n", ["ext4", "vivid"])


def unpacked(content: bytes) -> Iterator[tuple[str, int, bytes]]:
    at = 0
    while True:
        assert content[at : at + 6] == b"070701"
        fields = [int(content[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = content[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        at += (110 + length + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            return
        yield name[:-1].decode(), mode, content[at : at + size]
        at += (size + 3) // 4 * 4


@pytest.mark.parametrize("files", [{}, {"a": b""}, {f"{'n' * n}": b"x" * (9 - n) for n in range(1, 10)}])
def test_the_initial_ram_disk_is_what_was_put_in(files: dict[str, bytes]) -> None:
    put = {name: (0o100644, content) for name, content in files.items()}
    assert list(unpacked(image.archive(put))) == [(name, *rest) for name, rest in put.items()]


def test_another_manifest_is_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.manifest("bookworm")
    assert image.manifest("trixie") != before
    copy = tmp_path / "adapter"
    shutil.copytree(image.OVERLAY, copy)
    monkeypatch.setattr(image, "OVERLAY", copy)
    assert image.manifest("bookworm") == before
    (copy / "etc" / "hostname").write_text("other\n")
    assert image.manifest("bookworm") != before
    assert {"systemd", "mosquitto", "qemu-guest-agent", image.KERNEL} <= set(before)


def test_the_kernel_is_not_configured_and_all_else_is() -> None:
    debian = ["linux-image-6.1.0-50-arm64", "initramfs-tools-core", "linux-base", *image.INCLUDE]
    kept = [name for name in debian if not image.NOT_CONFIGURED.match(name)]
    assert kept == [name for name in image.INCLUDE if name != image.KERNEL]


def test_what_is_slower_here_is_set_by_settings_that_are_right() -> None:
    config = settings.load(rehearse.GUEST / "etc/foldsight/edge.d/emulated.yaml")
    assert config.latency.max_age_ms == 1000 * rehearse.MAX_AGE_S
    assert (config.phones.https_port, config.phones.mqtt_port) == (rehearse.HTTPS, rehearse.MQTT)


def test_the_emulated_machine_never_uses_the_hosts_processor_and_has_no_way_out(tmp_path: Path) -> None:
    drives = [machine.Drive(tmp_path / "a,b.qcow2", "qcow2"), machine.Drive(tmp_path / "c", readonly=True)]
    line = " ".join(machine.command(tmp_path / "k", tmp_path / "i", drives, tmp_path / "ga", {1234: 8443}))
    assert "-accel tcg" in line
    assert "kvm" not in line
    assert f"restrict=on,hostfwd=tcp:127.0.0.1:1234-{machine.ADDRESS}:8443" in line
    assert "a,,b.qcow2,format=qcow2" in line
    assert line.count("readonly=on") == 1


class Agent:
    """Answers on a socket as QEMU's guest agent does, after what an earlier, broken conversation left there."""

    def __init__(self, path: Path, *, status: int, said: str) -> None:
        self.asked: list[dict[str, Any]] = []
        self._status, self._said = status, said
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        polls = 0
        while True:
            connection, _ = self._server.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(b'{"return": {"pid": 1}}\n{"return": ')
                for line in lines:
                    request = json.loads(line.lstrip(b"\xff"))
                    self.asked.append(request)
                    what, arguments = request["execute"], request["arguments"]
                    if what == "guest-sync-delimited":
                        connection.sendall(b"\xff" + json.dumps({"return": arguments["id"]}).encode() + b"\n")
                        continue
                    answer: Any = {}
                    if what == "guest-exec":
                        answer = {"pid": 77}
                    elif what == "guest-exec-status":
                        polls += 1
                        data = base64.b64encode(self._said.encode()).decode()
                        answer = {"exited": False} if polls < 3 else {
                            "exited": True, "exitcode": self._status, "out-data": data}  # fmt: skip
                    connection.sendall(json.dumps({"return": answer}).encode() + b"\n")


def guest(tmp_path: Path) -> machine.Machine:
    return machine.Machine([], tmp_path / "agent", tmp_path / "log")


def test_a_command_in_the_guest_is_followed_to_its_end(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent", status=0, said="6.1.0-50-arm64\n")
    assert guest(tmp_path).run("uname -r") == machine.Done(0, "6.1.0-50-arm64\n")
    assert "uname -r" in next(a for a in agent.asked if a["execute"] == "guest-exec")["arguments"]["arg"][1]


def test_a_command_that_fails_in_the_guest_is_one_sentence(tmp_path: Path) -> None:
    Agent(tmp_path / "agent", status=3, said="one\ntwo\nthree\nfour\n")
    with pytest.raises(machine.GuestError, match=r"'false \|\| exit 3' failed with 3: two / three / four"):
        guest(tmp_path).run("\nfalse || exit 3\n")


def test_a_guest_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(machine.GuestError, match="does not answer"):
        guest(tmp_path).run("true")


def frame(
    at: float, session: int = 1, state: str = "no_folds", *, age_ms: float = 100, retained: bool = False
) -> phone.Heard:
    return phone.Heard(at, "detection", retained, {"session": session, "state": state, "age_ms": age_ms})


def state(at: float, value: str, session: int = 1, *, retained: bool = False) -> phone.Heard:
    return phone.Heard(at, "state", retained, {"session": session, "state": value, "age_ms": None})


def status(at: float, value: str, *, retained: bool = False) -> phone.Heard:
    return phone.Heard(at, "status", retained, {"session": 1, "state": value})


@pytest.mark.parametrize(
    ("heard", "sign"),
    [
        ([frame(9.9), status(10.3, "offline")], phone.Sign(0.3, "offline")),
        ([frame(9.9), state(10.5, "no_signal"), status(10.6, "degraded")], phone.Sign(0.5, "no_signal")),
        ([frame(9.9), frame(10.2)], phone.Sign(1.2, "silence")),
        ([frame(9.9), frame(10.2), status(14, "offline")], phone.Sign(1.2, "silence")),
        ([frame(9.9), status(10.1, "offline", retained=True)], phone.Sign(0.9, "silence")),
        ([frame(9.9), frame(10.2, retained=True)], phone.Sign(0.9, "silence")),
        ([status(9, "offline"), *(frame(9.5 + n / 2) for n in range(30))], None),
    ],
)
def test_the_first_sign_of_a_fault(heard: list[phone.Heard], sign: phone.Sign | None) -> None:
    assert phone.noticed(heard, begin=10, until=20) == sign


def test_what_is_stale() -> None:
    late = frame(31, 2, age_ms=2100)
    old, between = frame(30.5, 1), frame(14, 1)
    heard = [
        frame(9, age_ms=9000),  # before it
        frame(12.5),  # was on its way
        between,
        state(15, "no_signal"),  # speaks of no frame
        state(16, "folds", retained=True),  # no page shows it as live
        frame(30, 2),
        old,
        late,
    ]
    assert phone.stale(heard, begin=10, end=25, session=1, age_s=2) == [between, old, late]


def test_time_left_follows_the_machines_pace() -> None:
    assert rehearse.left([60, 60, 120], []) == "4 minutes"
    assert rehearse.left([60, 60, 120], [180]) == "9 minutes"
    assert rehearse.left([60, 60, 10], [30, 30]) == "a minute"


def test_the_table_says_what_is_broken() -> None:
    rows = [
        rehearse.Row("daemon killed", 0.4, "offline", 31.2, 1.1, 29.8, 0, "by itself"),
        rehearse.Row("power cut", problems=["no frame was classified within 900 s"]),
    ]
    about = {"foldsight": "0.1.0", "guest": ["Debian", "6.1"], "qemu": "QEMU 7.2", "machine": "x86_64"}
    lines = rehearse.table({"emulated": True, "rows": [rehearse.asdict(row) for row in rows], "about": about})
    assert lines[2].split()[:8] == ["daemon", "killed", "0.4", "offline", "31.2", "1.1", "29.8", "0"]
    assert lines[3].endswith("BROKEN")
    assert "BROKEN  power cut: no frame was classified within 900 s" in lines


def test_versions_go_on() -> None:
    assert stick.following("0.1.9", 2) == "0.1.11"
    with pytest.raises(prepared.SetupError, match="names no version"):
        stick._version("")


def test_another_version_is_built_from_a_copy(tmp_path: Path) -> None:
    version = stick._version((stick.ROOT / "edge" / "__init__.py").read_text())
    source = tmp_path / "copy"
    stick._copy(source, version, "9.8.7", {"edge/daemon.py": stick._FAULT})
    assert '"9.8.7"' in (source / "edge" / "__init__.py").read_text()
    assert 'version = "9.8.7"' in (source / "pyproject.toml").read_text()
    assert (source / "edge" / "daemon.py").read_text().endswith(stick._FAULT)
    assert not list(source.rglob("node_modules"))


def test_an_exposure_is_read() -> None:
    assert units.exposure("...\n→ Overall exposure level for foldsight-edge.service: 1.4 OK :-)\n") == 1.4
    with pytest.raises(prepared.SetupError, match="gives no exposure: Failed"):
        units.exposure("Failed\n")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_where_nothing_can_be_emulated_the_units_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image, "TOOLS", {"no-such-emulator": "its-package"})
    assert rehearse.main(["--folder", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "no adapter can be emulated on this machine: no-such-emulator" in err
    assert "No adapter was emulated" in out
    assert "foldsight-edge.service" in out
    assert "BROKEN" not in out
