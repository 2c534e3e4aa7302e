from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_files, tiny_manifest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge import cli, keys, store
from edge.bundle import Bundle, sign_bundle, write_bundle
from edge.config import COMMITTED_BUNDLE, Config
from edge.errors import BundleError, ConfigError, FoldsightError
from edge.store import Store, Trial, begin, in_use, precedence

FILES = tiny_files()


def make(folder: Path, version: str, name: str = "redness") -> Path:
    path = folder / f"{name}-{version}.zip"
    write_bundle(path, tiny_manifest(version=version, name=name), FILES)
    return path


def config(folder: Path, **model: Any) -> Config:
    return Config.model_validate({"state_dir": folder / "state", "model": model})


@pytest.fixture
def shelf(tmp_path: Path) -> Store:
    (tmp_path / "state").mkdir()
    return Store(tmp_path / "state")


@pytest.fixture(autouse=True)
def _no_state_of_systemd(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    # What ships is another model than those that are installed here, and a small one.
    shipped = tiny_bundle.with_name("shipped.zip")
    if not shipped.exists():
        write_bundle(shipped, tiny_manifest(name="shipped", version="1.0.0"), FILES)
    monkeypatch.setattr("edge.config.COMMITTED_BUNDLE", shipped)


def version_in_use(settings: Config) -> str:
    return in_use(settings).manifest.version


def run(*argv: object) -> int:
    return cli.main([str(a) for a in argv])


def test_the_one_before_is_kept_and_gone_back_to(shelf: Store, tmp_path: Path) -> None:
    settings = config(tmp_path)
    assert in_use(settings).manifest.name == "shipped"
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        shelf.install(make(tmp_path, version), trial=False)
        assert version_in_use(settings) == version
    assert len(list(shelf.folder.glob("*.zip"))) == 2  # this one and the one before
    shelf.roll_back("by hand")
    assert version_in_use(settings) == "1.1.0"
    assert len(list(shelf.folder.glob("*.zip"))) == 1
    shelf.roll_back("by hand")
    assert in_use(settings).manifest.name == "shipped"
    with pytest.raises(BundleError, match="the one that ships with Foldsight is in use"):
        shelf.roll_back("by hand")


def test_a_version_does_not_go_back_by_accident(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.10.0"), trial=False)
    with pytest.raises(BundleError, match=r"1\.9\.0 is older than 1\.10\.0, which is in use: say --allow-downgrade"):
        shelf.install(make(tmp_path, "1.9.0"))
    assert version_in_use(config(tmp_path)) == "1.10.0"
    shelf.install(make(tmp_path, "1.9.0"), allow_downgrade=True)
    assert version_in_use(config(tmp_path)) == "1.9.0"
    with pytest.raises(BundleError, match=r"shipped 0\.9\.0 is older than 1\.0\.0"):  # than the one that ships, too
        Store(tmp_path / "other").install(make(tmp_path, "0.9.0", "shipped"))


def test_versions_are_ordered_as_semver_says() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
               "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0"]  # fmt: skip
    assert sorted([*ordered[5:], *ordered[:5]], key=precedence) == ordered


_VERSIONS = st.from_regex(r"\A[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[0-9a-z.]{1,6})?\Z")


@given(_VERSIONS, _VERSIONS)
def test_any_two_versions_that_a_manifest_may_have_can_be_compared(one: str, other: str) -> None:
    assert (precedence(one) < precedence(other)) + (precedence(one) > precedence(other)) <= 1


def test_a_damaged_bundle_is_refused_and_changes_nothing(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.0.0"), trial=False)
    before = {p.name: p.read_bytes() for p in shelf.folder.iterdir()}
    bad = make(tmp_path, "1.1.0")
    content = bytearray(bad.read_bytes())
    content[len(content) // 2] ^= 1
    bad.write_bytes(content)
    with pytest.raises(BundleError):
        shelf.install(bad)
    other = tmp_path / "other.zip"
    swapped = {**FILES, "golden.npz": make_wrong_golden()}
    write_bundle(other, tiny_manifest(version="1.2.0"), swapped)
    with pytest.raises(BundleError, match="gives other scores on this machine"):
        shelf.install(other)
    with pytest.raises(BundleError, match="has no int8 model"):
        shelf.install(make(tmp_path, "1.3.0"), precision="int8")
    assert {p.name: p.read_bytes() for p in shelf.folder.iterdir()} == before


def make_wrong_golden() -> bytes:
    import io  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    with np.load(io.BytesIO(FILES["golden.npz"])) as arrays:
        changed = {**arrays, "scores_fp32": arrays["scores_fp32"][:, ::-1]}
    out = io.BytesIO()
    np.savez(out, **changed)
    return out.getvalue()


def test_the_same_bundle_again_mends_its_copy(shelf: Store, tmp_path: Path) -> None:
    path = make(tmp_path, "1.0.0")
    entry = shelf.install(path)
    shelf.path(entry).write_bytes(b"rotten")
    again = shelf.install(path)
    assert again == entry
    assert version_in_use(config(tmp_path)) == "1.0.0"


def test_a_bundle_that_rots_on_the_card_is_given_up_for_the_one_before(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.0.0"), trial=False)
    entry = shelf.install(make(tmp_path, "1.1.0"), trial=False)
    shelf.path(entry).write_bytes(b"rotten")
    chosen = begin(config(tmp_path))
    assert chosen.bundle.manifest.version == "1.0.0"
    (gone,) = chosen.given_up
    assert gone.entry == entry
    assert "is damaged" in gone.reason
    assert begin(config(tmp_path)).given_up == ()  # told once


def test_with_nothing_good_left_the_one_that_ships_is_used(shelf: Store, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        shelf.path(shelf.install(make(tmp_path, version), trial=False)).unlink()
    chosen = begin(config(tmp_path))
    assert chosen.bundle.manifest.name == "shipped"
    assert len(chosen.given_up) == 2


def test_a_damaged_pointer_means_the_one_that_ships_until_the_next_installation(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.0.0"), trial=False)
    (shelf.folder / store.POINTER).write_bytes(b"")
    chosen = begin(config(tmp_path))
    assert chosen.bundle.manifest.name == "shipped"
    assert "is damaged" in chosen.fault
    shelf.install(make(tmp_path, "1.1.0"), trial=False)
    assert version_in_use(config(tmp_path)) == "1.1.0"


def test_a_path_in_the_settings_goes_before_what_is_installed(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.0.0"))
    named = config(tmp_path, bundle=make(tmp_path, "0.5.0"))
    assert begin(named).bundle.manifest.version == "0.5.0"
    assert shelf.read().starts == 0  # and nothing is counted


def test_after_so_many_starts_that_ended_badly_the_one_before_is_back(shelf: Store, tmp_path: Path) -> None:
    settings = config(tmp_path)
    shelf.install(make(tmp_path, "1.0.0"), trial=False)
    shelf.install(make(tmp_path, "1.1.0"))
    for _ in range(3):
        assert begin(settings).bundle.manifest.version == "1.1.0"
    chosen = begin(settings)
    assert (chosen.bundle.manifest.version, chosen.trial) == ("1.0.0", None)
    assert [g.reason for g in chosen.given_up] == ["the daemon ended 3 times during its trial"]


def test_a_start_that_ended_well_is_not_held_against_it(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.1.0"))
    for _ in range(5):
        trial = begin(config(tmp_path)).trial
        assert trial is not None
        trial.ended_well()
    assert shelf.read().starts == 0


def test_what_is_on_trial_is_nothing_to_go_back_to(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.0.0"), trial=False)
    shelf.install(make(tmp_path, "1.1.0"))
    shelf.install(make(tmp_path, "1.2.0"))
    shelf.roll_back("by hand")
    assert version_in_use(config(tmp_path)) == "1.0.0"


def test_a_trial_takes_undisturbed_seconds_with_frames(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.1.0"))
    trial = begin(config(tmp_path)).trial
    assert isinstance(trial, Trial)
    assert not trial.update(1000, 0, sound=True)  # no frame yet: time alone does not count
    assert not trial.update(1100, 1, sound=True)
    assert not trial.update(1159, 900, sound=True)
    assert not trial.update(1160, 901, sound=False)  # the camera is gone
    assert not trial.update(1300, 901, sound=True)
    assert not trial.update(1301, 902, sound=True)
    assert trial.update(1361, 2000, sound=True)
    assert not trial.update(1362, 2001, sound=True)  # told once
    assert shelf.read().starts is None
    trial.ended_well()
    assert shelf.read().starts is None


def test_a_trial_that_cannot_be_counted_is_not_begun(
    shelf: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.install(make(tmp_path, "1.0.0"), trial=False)
    shelf.install(make(tmp_path, "1.1.0"))

    def full(*_: object) -> None:
        raise FoldsightError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(store.files, "write", full)
        assert begin(config(tmp_path)).bundle.manifest.version == "1.0.0"
    assert begin(config(tmp_path)).bundle.manifest.version == "1.1.0"  # once there is room again


def test_a_bundle_past_its_trial_starts_without_a_write(shelf: Store, tmp_path: Path) -> None:
    shelf.install(make(tmp_path, "1.0.0"), trial=False)
    before = {p: p.stat().st_mtime_ns for p in (shelf.folder, *shelf.folder.iterdir())}
    begin(config(tmp_path))
    in_use(config(tmp_path))
    assert {p: p.stat().st_mtime_ns for p in (shelf.folder, *shelf.folder.iterdir())} == before


# Keys


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "release"
    keys.make(path)
    return path


def test_a_key_is_its_owners_alone_and_never_overwritten(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"PRIVATE" not in key.with_name("release.pub").read_bytes()
    with pytest.raises(FoldsightError, match="exists: no key is overwritten"):
        keys.make(key)
    key.unlink()
    with pytest.raises(FoldsightError, match=r"release\.pub exists"):
        keys.make(key)
    assert not key.exists()


def test_only_what_a_trusted_key_signed_is_installed(shelf: Store, tmp_path: Path, key: Path) -> None:
    path = make(tmp_path, "1.0.0")
    trusted = keys.trusted([key.with_name("release.pub")])
    with pytest.raises(BundleError, match="is not signed, and only signed bundles are trusted here"):
        shelf.install(path, keys=trusted)
    sign_bundle(path, Ed25519PrivateKey.generate())
    with pytest.raises(BundleError, match="not signed by a key that is trusted here"):
        shelf.install(path, keys=trusted)
    assert not list(shelf.folder.glob("*.zip"))
    assert sign_bundle(path, keys.load_private(key)).signed
    assert shelf.install(path, keys=trusted).signed


def test_a_key_that_is_no_longer_trusted_takes_its_bundles_with_it(shelf: Store, tmp_path: Path, key: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    path = make(tmp_path, "1.0.0")
    sign_bundle(path, keys.load_private(key))
    shutil.copy(key.with_name("release.pub"), folder)
    settings = config(tmp_path, trusted_keys=[folder])
    shelf.install(path, keys=keys.trusted([folder]), trial=False)
    chosen = begin(settings)
    assert (chosen.bundle.manifest.version, chosen.bundle.signed) == ("1.0.0", True)
    (folder / "release.pub").unlink()
    with pytest.raises(ConfigError, match="holds no public key"):  # mislaid keys do not open the door
        begin(settings)
    keys.make(tmp_path / "next")
    shutil.copy(tmp_path / "next.pub", folder)
    assert begin(settings).bundle.manifest.name == "shipped"  # trusted as the software is


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\xff\0"])
def test_what_is_no_key_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.pub"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no public key"):
        keys.trusted([path])
    with pytest.raises(FoldsightError, match="is no private key"):
        keys.load_private(path)


# The command line


def test_a_bundle_from_key_to_rollback_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, old, new = tmp_path / "release", make(tmp_path, "1.0.0"), make(tmp_path, "1.1.0")
    common = ("--set", f"state_dir={tmp_path / 'state'}", "--set", f"model.trusted_keys=[{key}.pub]")
    assert run("bundle", "keygen", key) == 0
    assert run("bundle", "install", old, *common) == 1
    assert "is not signed" in capsys.readouterr().err
    for path in (old, new):
        assert run("bundle", "sign", path, "--key", key) == 0
        assert run("bundle", "install", path, *common) == 0
    assert "signatures are not checked" not in capsys.readouterr().out.lower()
    assert run("bundle", "install", old, *common) == 1
    assert "older than 1.1.0" in capsys.readouterr().err
    assert run("bundle", "list", *common) == 0
    out = capsys.readouterr().out
    assert "in use     redness 1.1.0" in out
    assert "on trial (0 of 3 starts did not end well)" in out
    assert "shipped    shipped 1.0.0" in out
    assert run("bundle", "rollback", *common, "--json") == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["current"], state["given_up"]["entry"]["version"]) == (None, "1.1.0")  # 1.0.0 never ended its trial
    assert run("bundle", "rollback", *common) == 1


def test_without_keys_an_installation_says_that_nobody_looks_at_signatures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bundle", "install", make(tmp_path, "1.0.0"), "--set", f"state_dir={tmp_path / 'state'}") == 0
    assert "Signatures are not checked here" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can install for another user")
def test_what_root_installs_belongs_to_the_daemon(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 1234, 1234)
    Store(state).install(make(tmp_path, "1.0.0"))
    for path in ((state / "bundles"), *(state / "bundles").iterdir()):
        assert path.stat().st_uid == 1234


def test_the_bundle_that_ships_can_be_installed_too(tmp_path: Path) -> None:
    """In a process of its own, as a person does, with the real model."""
    argv = [sys.executable, "-m", "edge.cli", "bundle", "install", COMMITTED_BUNDLE, "--json"]
    argv += ["--set", f"state_dir={tmp_path / 'state'}"]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sha256"] == Bundle.open(COMMITTED_BUNDLE, golden=False).sha256
