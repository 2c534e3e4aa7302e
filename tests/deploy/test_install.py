"""install.sh on a root folder: as an image builder uses it, and as an adapter, but for what only systemd can do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import adapter_root
import cv2
import numpy as np
import pytest
from adapter_root import another, archive, foldsight, install, system, tree, unpacked
from little_systemd import LittleSystemd

from edge import keys

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
PLACES = (
    "usr/local/lib/systemd/system",
    "usr/local/lib/udev/rules.d",
    "usr/local/lib/sysusers.d",
    "usr/local/lib/tmpfiles.d",
)


@dataclass(frozen=True)
class Adapter:
    """What the tests of this file share: a release, and a root folder in which it is installed."""

    folder: Path
    release: Path
    key: Path
    root: Path
    said: str

    def copy(self, name: str) -> Path:
        to = self.folder / name
        shutil.copytree(self.root, to, symlinks=True)
        return to


@pytest.fixture(scope="module")
def adapter() -> Iterator[Adapter]:
    with adapter_root.memory_folder() as folder:
        key = folder / "release"
        keys.make(key)
        release = unpacked(archive(folder, "0.1.0", key), folder)
        root = system(folder / "root")
        done = install(release, root)
        assert done.returncode == 0, done.stderr
        yield Adapter(folder, release, key, root, done.stdout)


def test_everything_is_in_its_place(adapter: Adapter) -> None:
    root = adapter.root
    assert (root / "opt/foldsight/current").readlink() == Path("releases/0.1.0")
    units = {p.name for p in (root / PLACES[0]).iterdir() if p.is_file()}
    assert units == {
        "foldsight.target",
        "foldsight-degraded.service",
        "foldsight-edge.service",
        "foldsight-display.service",
        "foldsight-phones.service",
        "foldsight-phones.timer",
        "foldsight-trial.service",
    }
    for unit in (p for p in (root / PLACES[0]).rglob("foldsight-*.service")):
        command = re.search(r"^ExecStart=-?/opt/foldsight/(current|previous)/(\S+)", unit.read_text(), re.MULTILINE)
        assert command
        assert (root / "opt/foldsight/current" / command[2]).is_file()
    assert (root / "usr/local/bin/foldsight").resolve() == (root / "opt/foldsight/releases/0.1.0/bin/foldsight")
    first = (root / "opt/foldsight/current/bin/foldsight").read_text().splitlines()[0]
    assert first == "#!/opt/foldsight/releases/0.1.0/bin/python"  # nothing of the root folder's path is in the image
    assert (root / "etc/foldsight/edge.yaml").read_text().splitlines()[-1].startswith("device: theatre-3 #")
    broker = (root / "etc/mosquitto/conf.d/foldsight.conf").read_text()
    assert broker == (adapter_root.ROOT / "deploy/mosquitto/foldsight.conf").read_text()
    secrets = [p for p in root.rglob("*") if p.suffix in (".pem", ".crt") and "site-packages" not in p.parts]
    assert not secrets
    assert not (root / "var/lib/foldsight-phones").exists()  # each adapter makes its own, at its first start


def test_the_services_start_with_the_machine(adapter: Adapter) -> None:
    if shutil.which("systemctl") is None:
        pytest.skip("systemctl is not installed")
    wanted = {
        str(p.relative_to(adapter.root / "etc/systemd/system")) for p in adapter.root.glob("etc/systemd/system/*/*")
    }
    assert wanted == {
        "multi-user.target.wants/foldsight.target",
        "multi-user.target.wants/foldsight-trial.service",
        "foldsight.target.wants/foldsight-edge.service",
        "foldsight.target.wants/foldsight-display.service",
        "foldsight.target.wants/foldsight-phones.timer",
    }


def test_the_installed_command_works_and_reads_the_image_settings(adapter: Adapter) -> None:
    said = json.loads(foldsight(adapter.root, "software", "list", "--json", "--root", str(adapter.root)).stdout)
    assert said == {"current": "0.1.0", "previous": None, "versions": ["0.1.0"], "trial": None, "last_trial": None}
    shown = foldsight(
        adapter.root, "config", "show", "--json", "--config", str(adapter.root / "etc/foldsight/edge.yaml")
    )
    assert json.loads(shown.stdout)["device"] == "theatre-3"
    assert json.loads(shown.stdout)["phones"]["enabled"] is True


def test_a_second_time_changes_nothing_and_a_persons_settings_stay(adapter: Adapter) -> None:
    (adapter.root / "etc/foldsight/edge.yaml").write_text("device: theatre-3 # mine\n")
    before = tree(adapter.root)
    done = install(adapter.release, adapter.root)
    assert done.returncode == 0, done.stderr
    after = tree(adapter.root)
    assert {k for k in before | after if before.get(k) != after.get(k)} <= {"etc/.pwd.lock"}


def test_a_dry_run_changes_nothing_and_says_what_it_would_do(adapter: Adapter) -> None:
    root = system(adapter.folder / "dry")
    before = tree(root)
    done = install(adapter.release, root, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert tree(root) == before
    for words in ("would run: ", "-m venv", "would write: ", "foldsight software switch 0.1.0"):
        assert words in done.stdout
    before = tree(adapter.root)
    done = install(adapter.release, adapter.root, "uninstall", "--purge", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert tree(adapter.root) == before


def test_what_is_removed_and_what_stays(adapter: Adapter) -> None:
    root = adapter.copy("removed")
    (root / "var/lib/foldsight-phones/display").mkdir(parents=True)
    (root / "var/lib/foldsight-phones/display/pairing.json").write_text("{}")
    done = subprocess.run(
        [str(root / "opt/foldsight/current/install.sh"), "uninstall", "--root", str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = {name for name, content in tree(root).items() if content is not None}
    assert not {name for name in left if "opt/" in name or "usr/" in name or ".wants" in name or "conf.d" in name}
    assert {"etc/foldsight/edge.yaml", "var/lib/foldsight-phones/display/pairing.json"} <= left
    done = install(adapter.release, root, "uninstall", "--purge")
    assert done.returncode == 0, done.stderr
    before = {name for name, content in tree(system(adapter.folder / "fresh")).items() if content is not None}
    users = {f"etc/{name}" for name in ("passwd", "shadow", "group", "gshadow", ".pwd.lock")}
    assert {name for name, content in tree(root).items() if content is not None} - users == before


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        ({"etc/os-release": "ID=arch\nPRETTY_NAME='Arch Linux'\n"}, (), "Arch Linux is not supported"),
        ({"etc/os-release": 'ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian 11"\n'}, (), "Debian 11 is not supported"),
        ({}, ("--python", "/nowhere/python3"), "/nowhere/python3 is not there: apt install python3"),
        ({}, ("--device", "Herr_Meier"), "lower case letters, digits and hyphens"),
        ({}, ("--wheelhouse", "/nowhere"), "--wheelhouse /nowhere is no folder"),
        ({}, ("--purge",), "--purge goes with uninstall"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    adapter: Adapter, tmp_path: Path, change: dict[str, str], arguments: tuple[str, ...], sentence: str
) -> None:
    root = system(tmp_path / "root")
    for name, text in change.items():
        (root / name).write_text(text)
    before = tree(root)
    done = install(adapter.release, root, *arguments)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert tree(root) == before


def test_a_release_that_was_tampered_with_or_is_none(adapter: Adapter, tmp_path: Path) -> None:
    root = system(tmp_path / "root")
    release = tmp_path / "release"
    shutil.copytree(adapter.release, release)
    (release / "system/common/systemd/system/foldsight-edge.service").write_text("[Service]\nExecStart=/bin/evil\n")
    done = install(release, root)
    assert done.returncode == 1
    assert "is damaged: a file is not as SHA256SUMS says" in done.stderr
    named = sorted(str(p.relative_to(release)) for p in release.rglob("*") if p.is_file() and "SUMS" not in p.name)
    sums = subprocess.run(["sha256sum", *named], cwd=release, capture_output=True, check=True)
    (release / "SHA256SUMS").write_bytes(sums.stdout)
    done = install(release, root, "--key", str(adapter.key.with_name("release.pub")))
    assert done.returncode == 1
    assert "is not signed by a key that is trusted here" in done.stderr
    done = install(adapter_root.ROOT / "deploy", root)
    assert "is no release: run install.sh from an unpacked" in done.stderr
    assert not (root / "opt").exists()


def test_without_packages_nothing_is_left_half_installed(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with adapter_root.memory_folder() as folder:
        root = system(folder / "root")
        done = install(adapter.release, root, "--wheelhouse", str(tmp_path / "wheels"), packages=False)
        assert done.returncode == 1
        assert "does not have the package; connect the network, or give --wheelhouse DIR" in done.stderr
        assert not [p for p in root.rglob("*") if "foldsight" in p.name and p.is_file()]
        assert not list((root / "opt/foldsight/releases").iterdir())


def test_a_full_disk_is_told_before_anything_is_begun(adapter: Adapter, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "df").write_text("#!/bin/sh\necho head\necho /dev/root 1000000 990000 10240 99% /\n")
    (programs / "df").chmod(0o755)
    root = system(tmp_path / "root")
    argv = [str(adapter.release / "install.sh"), "--root", str(root), "--python", sys.executable]
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    assert done.returncode == 1
    assert "the disk is full: 10 MB are free" in done.stderr
    assert not (root / "opt").exists()


class Life:
    """An adapter that runs: the real daemon of the installed release; only systemd is a small one."""

    def __init__(self, adapter: Adapter, folder: Path) -> None:
        self.adapter, self.folder = adapter, folder
        self.root = root = adapter.copy("updated")
        for name in ("foldsight-display.service", "foldsight-phones.timer"):
            (root / "etc/systemd/system/foldsight.target.wants" / name).unlink(missing_ok=True)
        self._look_at_pictures()
        self.options = {"foldsight-trial.service": ["--trial-s", "1", "--ready-s", "100"]}
        short = adapter.folder / "s"  # a socket's path holds 107 bytes
        short.mkdir()
        self.common = ["--root", str(root), "--systemctl", str(short / "systemctl")]
        self.options["foldsight-trial.service"] += self.common
        self.machine = LittleSystemd(root, short, self.options)

    def _look_at_pictures(self) -> None:
        pictures = self.folder / "pictures"  # below /dev it would be taken for a camera
        pictures.mkdir()
        noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
        for number in range(2):
            assert cv2.imwrite(str(pictures / f"{number}.png"), noise)
        (self.root / "etc/foldsight/edge.d/phones.yaml").write_text(
            f"capture: {{source: {pictures}, fps: 5}}\nmqtt: {{port: 9}}\nstate_dir: {self.root}/var/lib/foldsight\n"
        )

    @property
    def current(self) -> str:
        return (self.root / "opt/foldsight/current").readlink().name

    def software(self, *arguments: str, of: str = "current") -> subprocess.CompletedProcess[str]:
        return foldsight(self.root, "software", *arguments, *self.common, of=of)

    def update(self, path: Path) -> subprocess.CompletedProcess[str]:
        packages = ["--packages-from", adapter_root.sysconfig.get_paths()["purelib"]]
        return self.software("update", str(path), "--python", adapter_root.PYTHON, *packages)

    def trial_ends(self) -> None:
        self.machine.wait("foldsight-trial.service", "inactive")

    def runs(self) -> None:
        self.machine.wait("foldsight-edge.service", "active")


@pytest.fixture
def life(adapter: Adapter, tmp_path: Path) -> Iterator[Life]:
    life = Life(adapter, tmp_path)
    try:
        life.machine.boot()
        life.runs()
        yield life
    finally:
        life.machine.close()


def test_an_update_stays_if_it_does_well_and_goes_if_not(life: Life) -> None:
    root, folder = life.root, life.folder
    release = archive(folder, "0.2.0", life.adapter.key)

    # What nobody vouches for does not get in.
    trusted = root / "etc/foldsight/software-keys/release.pub"
    mine = trusted.read_bytes()
    shutil.copy(keys.make(folder / "other"), trusted)
    done = life.update(release)
    assert done.returncode == 1
    assert "not signed by a key that is trusted here" in done.stderr
    assert not (root / "opt/foldsight/incoming").exists()
    trusted.write_bytes(mine)

    # A good one stays.
    done = life.update(release)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "0.2.0 has passed its trial and stays" in done.stdout
    assert life.current == "0.2.0"
    life.runs()

    # The installer run again puts the same release in place once more, and disturbs nobody who looks at the phone.
    started = life.machine.service("foldsight-edge.service").started
    assert life.software("switch", "0.2.0").returncode == 0
    assert life.machine.calls[-1][-2:] == ["start", "foldsight.target"]
    life.runs()
    assert life.machine.service("foldsight-edge.service").started == started

    # One that dies goes, and with it what only it had.
    another(root, "0.2.0", "0.3.0", {"edge/daemon.py": "\nraise SystemExit(1)\n"})
    unit = root / "opt/foldsight/releases/0.3.0/system/common/systemd/system/foldsight-extra.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    done = life.software("switch", "0.3.0", of="releases/0.3.0")
    assert done.returncode == 0, done.stderr
    life.trial_ends()
    assert life.current == "0.2.0"
    assert not (root / PLACES[0] / unit.name).exists()
    life.runs()
    said = foldsight(root, "software", "list", "--root", str(root)).stdout
    assert re.search(r"^given up +0\.3\.0, .*: foldsight-edge\.service ended by itself$", said, re.MULTILINE)

    # The power fails in the middle of a trial: it goes on at the next start.
    another(root, "0.2.0", "0.4.0")
    judge = life.options["foldsight-trial.service"]
    judge[1] = "600"
    assert life.software("switch", "0.4.0", of="releases/0.4.0").returncode == 0
    life.machine.cut()
    judge[1] = "1"
    life.machine.boot()
    life.trial_ends()
    assert json.loads((root / "opt/foldsight/last-trial.json").read_text())["passed"] is True
    assert life.current == "0.4.0"
    assert sorted(p.name for p in (root / "opt/foldsight/releases").iterdir()) == ["0.2.0", "0.4.0"]

    # And by hand.
    assert life.software("rollback").stdout == "Foldsight 0.2.0 is used again instead of 0.4.0\n"
    assert "there is no release to go back to" in life.software("rollback").stderr
