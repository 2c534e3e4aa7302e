from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapter_root
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from edge import cli, keys
from edge.errors import FoldsightError
from edge.software import archive
from edge.software.archive import ArchiveError
from edge.software.releases import COMPLETE, Releases
from edge.software.system import Systemd
from edge.software.trial import STARTS, Judge, begin, go_back

EDGE, PAGE = "foldsight-edge.service", "foldsight-display.service"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "one").write_text("one\n")
    (tmp_path / "two").write_bytes(bytes(range(256)) * 50)
    return {"install.sh": tmp_path / "one", "system/common/two": tmp_path / "two"}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.make(tmp_path / "key")
    return tmp_path / "key"


def opened(path: Path, folder: Path, *trusted: Path) -> archive.Listed:
    folder.mkdir(exist_ok=True)
    return archive.unpack(path, folder, keys.trusted(trusted))


def test_what_goes_in_comes_out_and_the_same_files_give_the_same_bytes(
    tmp_path: Path, files: dict[str, Path], key: Path
) -> None:
    path = tmp_path / "a.tar.gz"
    archive.write(path, "1.2.3", files, keys.load_private(key))
    first = path.read_bytes()
    archive.write(path, "1.2.3", files, keys.load_private(key))
    assert path.read_bytes() == first
    listed = opened(path, tmp_path / "out", Path(f"{key}.pub"))
    assert (listed.version, listed.signed) == ("1.2.3", True)
    for name, file in files.items():
        assert (tmp_path / "out" / name).read_bytes() == file.read_bytes()
    assert (tmp_path / "out/install.sh").stat().st_mode & 0o111
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", archive.SUMS], cwd=tmp_path / "out", capture_output=True, check=False
    )
    assert checked.returncode == 0


def test_signing_later_is_the_same_as_signing_at_once(tmp_path: Path, files: dict[str, Path], key: Path) -> None:
    archive.write(tmp_path / "a.tar.gz", "1.2.3", files)
    with pytest.raises(ArchiveError, match="is not signed, and only signed software"):
        opened(tmp_path / "a.tar.gz", tmp_path / "out", Path(f"{key}.pub"))
    assert cli.main(["software", "sign", str(tmp_path / "a.tar.gz"), "--key", str(key)]) == 0
    archive.write(tmp_path / "b.tar.gz", "1.2.3", files, keys.load_private(key))
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_no_changed_byte_gets_through(tmp_path: Path, files: dict[str, Path], key: Path) -> None:
    path = tmp_path / "a.tar.gz"
    archive.write(path, "1.2.3", files, keys.load_private(key))
    plain = bytearray(gzip.decompress(path.read_bytes()))
    expected = {name: file.read_bytes() for name, file in files.items()}
    chooser = random.Random(0)
    for number in range(150):
        changed = bytearray(plain)
        changed[chooser.randrange(len(plain))] ^= 1 << chooser.randrange(8)
        path.write_bytes(gzip.compress(bytes(changed), 1))
        folder = tmp_path / f"out{number}"
        try:
            opened(path, folder, Path(f"{key}.pub"))
        except FoldsightError:
            continue
        # What is in the tar's padding or names the packer is nobody's content.
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert {k: v for k, v in found.items() if not k.startswith(archive.SUMS)} == expected


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, to: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), to
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("evil", "sentence"),
    [
        (lambda tar: _add(tar, "foldsight-1.0.0/../../etc/passwd", b"x"), "does not belong into a release"),
        (lambda tar: _add(tar, "/etc/passwd", b"x"), "does not belong into a release"),
        (lambda tar: _add(tar, "foldsight-1.0.0/link", kind=tarfile.SYMTYPE, to="/etc"), "does not belong into"),
        (lambda tar: _add(tar, "foldsight-1.0.0/more", b"x"), "more does not belong into it"),
        (lambda tar: _add(tar, "other/install.sh", b"x"), "does not belong into a release"),
    ],
)
def test_what_is_not_listed_does_not_get_in(
    tmp_path: Path, evil: Callable[[tarfile.TarFile], None], sentence: str
) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        _add(tar, f"foldsight-1.0.0/{archive.SUMS}", b"# foldsight software 1.0.0\n")
        evil(tar)
    with pytest.raises(ArchiveError, match=sentence):
        opened(path, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} <= {archive.SUMS}


@pytest.mark.parametrize("content", [b"", b"PK\3\4", gzip.compress(b"x" * 2000), b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(FoldsightError, match=r"a\.tar\.gz (is|cannot)"):
        opened(tmp_path / "a.tar.gz", tmp_path / "out")


def state(active: str, started_s: float, ready_s: float = 0, sub: str = "") -> dict[str, str]:
    return {
        "ActiveState": active,
        "SubState": sub,
        "ExecMainStartTimestampMonotonic": str(round(started_s * 1e6)),
        "ActiveEnterTimestampMonotonic": str(round(ready_s * 1e6)),
    }


def verdicts(units: dict[str, bool], *seen: tuple[float, dict[str, dict[str, str]]]) -> list[Any]:
    judge = Judge(units, 100_000_000)
    return [judge.look(states, round(now_s * 1e6)) for now_s, states in seen]


def test_one_that_runs_for_a_minute_after_ready_has_passed() -> None:
    old, new = state("active", 50, 52), state("active", 101, 105)
    seen = [(100.5, old), (102, state("activating", 101)), (150, new), (164.9, new), (165.1, new)]
    assert [v for v, _ in verdicts({EDGE: True}, *((t, {EDGE: s}) for t, s in seen))] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ([(101, state("activating", 101)), (130, state("activating", 129))], "ended by itself"),
        ([(110, state("active", 101, 105)), (130, state("active", 129, 130))], "ended by itself"),
        ([(110, state("activating", 101, sub="auto-restart"))], "ended by itself"),
        ([(110, state("failed", 101))], "ended by itself"),
        ([(219, state("activating", 101)), (221, state("activating", 101))], "did not get READY within 120 s"),
        ([(221, state("active", 50, 52))], "was not started within 120 s"),
        ([(221, {})], "was not started within 120 s"),
    ],
)
def test_one_that_does_not_has_failed(seen: list[tuple[float, dict[str, str]]], reason: str) -> None:
    said = verdicts({EDGE: True}, *((t, {EDGE: s}) for t, s in seen))
    assert [fault for _, fault in said[:-1]] == [""] * (len(said) - 1)
    assert said[-1] == (False, f"{EDGE} {reason}")


def test_without_a_camera_it_only_has_to_go_on_running() -> None:
    waiting = {EDGE: state("activating", 101), PAGE: state("active", 101, 102)}
    assert verdicts({EDGE: False, PAGE: True}, (150, waiting), (163, waiting)) == [(False, ""), (True, "")]


@given(st.lists(st.floats(0.01, 30), min_size=1, max_size=30), st.floats(0.1, 120))
def test_it_passes_after_the_minute_and_never_once_it_has_ended(looks_s: list[float], ends_s: float) -> None:
    judge = Judge({EDGE: True}, 100_000_000)
    now_s, started_s = 101.0, 101.0
    judge.look({EDGE: state("active", started_s, started_s)}, round(now_s * 1e6))
    for after_s in looks_s:
        now_s += after_s
        if now_s > 101 + ends_s:
            started_s = 101 + ends_s
        passed, fault = judge.look({EDGE: state("active", started_s, started_s)}, round(now_s * 1e6))
        if passed or fault:
            assert passed == (started_s == 101)
            assert now_s >= (161 if passed else 101 + ends_s)
            return


def small(root: Path, *versions: str) -> Releases:
    releases = Releases(root)
    for version in versions:
        releases.path(version).mkdir(parents=True)
        (releases.path(version) / COMPLETE).touch()
    return releases


def test_a_machine_that_is_started_again_and_again_goes_back(tmp_path: Path) -> None:
    releases = small(tmp_path, "1.0.0", "1.1.0")
    releases.use("1.0.0", {})
    releases.use("1.1.0", {EDGE: True})
    for number in range(STARTS):
        trial = begin(releases, Systemd(None))
        assert trial is not None
        assert trial.starts == number + 1
        assert releases.current == "1.1.0"
    assert begin(releases, Systemd(None)) is None
    assert releases.current == "1.0.0"
    assert releases.settled
    outcome = releases.outcome
    assert outcome is not None
    assert (outcome.version, outcome.passed) == ("1.1.0", False)
    assert "started 3 times before it had proved itself" in outcome.reason


def test_a_release_that_is_given_up_leaves_the_way_back_as_it_was(tmp_path: Path) -> None:
    releases = small(tmp_path, "1.0.0", "1.1.0")
    releases.use("1.0.0", {})
    releases.use("1.1.0", {})
    releases.passed()
    small(tmp_path, "1.2.0")
    releases.use("1.2.0", {})
    assert releases.previous == "1.1.0"
    assert go_back(releases, Systemd(None), "it failed") == "1.1.0"
    assert (releases.current, releases.previous) == ("1.1.0", "1.0.0")
    assert go_back(releases, Systemd(None), "by hand") == "1.0.0"
    assert releases.previous is None


def test_only_whole_releases_are_used_and_one_trial_at_a_time(tmp_path: Path) -> None:
    releases = small(tmp_path, "1.0.0", "1.1.0", "1.10.0")
    releases.path("2.0.0").mkdir()
    with pytest.raises(FoldsightError, match=r"2\.0\.0 is not a whole release"):
        releases.use("2.0.0", {})
    assert releases.versions() == ["1.0.0", "1.1.0", "1.10.0"]
    releases.use("1.0.0", {})
    releases.use("1.1.0", {})
    with pytest.raises(FoldsightError, match=r"1\.1\.0 is on trial"):
        releases.use("1.10.0", {})
    releases.passed()
    assert sorted(p.name for p in (tmp_path / "opt/foldsight/releases").iterdir()) == ["1.0.0", "1.1.0"]


def test_what_a_person_may_not_do_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--root", str(tmp_path)]
    assert cli.main(["software", "rollback", *common]) == 1
    assert "install Foldsight first" in capsys.readouterr().err
    small(tmp_path, "1.0.0").use("1.0.0", {})
    assert cli.main(["software", "update", "nothing.tar.gz", *common]) == 1
    assert "no key is trusted: put one into" in capsys.readouterr().err
    assert cli.main(["software", "update", "nothing.tar.gz", "--unsigned", *common]) == 1
    assert "nothing.tar.gz cannot be unpacked" in capsys.readouterr().err
    assert cli.main(["software", "list", *common]) == 0
    assert capsys.readouterr().out == "in use     1.0.0\n"


def test_an_older_release_wants_a_word(tmp_path: Path, files: dict[str, Path], capsys: Any) -> None:
    small(tmp_path, "1.10.0").use("1.10.0", {})
    archive.write(tmp_path / "old.tar.gz", "1.9.0", files)
    argv = ["software", "update", str(tmp_path / "old.tar.gz"), "--unsigned", "--root", str(tmp_path)]
    assert cli.main(argv) == 1
    assert "1.9.0 is older than 1.10.0, which is in use: say --allow-downgrade" in capsys.readouterr().err


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_the_pinned_packages_are_what_the_device_needs(python: str, machine: str) -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML by itself")
    project = tomllib.loads((adapter_root.ROOT / "pyproject.toml").read_text())["project"]
    lists = ["requirements.txt"] + ["requirements-numpy1.txt"] * (python == "3.11")
    for name in lists:
        lines = list(adapter_root.release.pinned(adapter_root.ROOT / "deploy" / name, machine, python))
        assert all(" --hash=sha256:" in line for line in lines)
        pins = {r.name: r for r in (Requirement(line.split(" --hash")[0]) for line in lines)}
        assert len(pins) == len(lines)
        for wanted in map(Requirement, project["dependencies"]):
            version = str(pins[wanted.name].specifier).removeprefix("==")
            assert wanted.specifier.contains(version), (name, wanted, version)
        if "numpy1" in name:
            assert str(pins["numpy"].specifier).startswith("==1.")
