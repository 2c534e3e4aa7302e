"""`foldsight software update, rollback, list, sign`; and what the installer and the units call."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import config as settings
from edge import keys, store
from edge.errors import FoldsightError
from edge.service import Notifier, log_to_stderr
from edge.software import archive
from edge.software.releases import Releases, discard
from edge.software.system import GUARD_UNIT, PARTS, Systemd, make_users_and_folders, restart, settings_file, start, tell
from edge.software.trial import READY_S, TRIAL_S, go_back, watch

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = "etc/foldsight/software-keys"
BY_HAND = "by hand"
_ASK_S = 0.5
_SLACK_S = 60.0


def add_actions(actions: Any) -> None:
    """Add the actions to `foldsight software`.

    Args:
        actions: the subparsers.
    """

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str = "") -> argparse.ArgumentParser:
        told = {"help": text, "description": text} if text else {}
        added: argparse.ArgumentParser = actions.add_parser(name, **told)
        added.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="an image's root folder")
        added.add_argument("--systemctl", help=argparse.SUPPRESS)
        added.set_defaults(run=run)
        return added

    update = action("update", _update, "check a release, install it beside the one in use, and try it")
    update.add_argument("path", type=Path, metavar="ARCHIVE", help="foldsight-VERSION.tar.gz")
    update.add_argument("--allow-downgrade", action="store_true", help="even if it is older than the one in use")
    update.add_argument(
        "--unsigned", action="store_true", help="even if no key is trusted, so that nobody vouches for it"
    )
    update.add_argument("--wheelhouse", type=Path, metavar="DIR", help="take packages from there, not from an index")
    update.add_argument("--packages-from", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    update.add_argument("--python", type=Path, help=argparse.SUPPRESS)
    update.add_argument("--no-wait", action="store_true", help="do not wait for the end of the trial")
    back = action("rollback", _rollback, "go back to the release before")
    listed = action("list", _list, "what is installed, and how the last trial ended")
    sign = action("sign", _sign, "sign a release")
    sign.add_argument("path", type=Path, metavar="ARCHIVE")
    sign.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="the private key (foldsight bundle keygen)"
    )
    for added in (update, back, listed, sign):
        added.add_argument("--json", action="store_true")
    # For install.sh and foldsight-trial.service.
    action("check", _check)
    switch = action("switch", _switch)
    switch.add_argument("version")
    switch.add_argument("--part", action="append", default=[], choices=PARTS)
    watched = action("watch", _watch)
    for added in (watched, update):
        added.add_argument("--trial-s", type=float, default=TRIAL_S, help=argparse.SUPPRESS)
        added.add_argument("--ready-s", type=float, default=READY_S, help=argparse.SUPPRESS)


def _systemd(arguments: argparse.Namespace) -> Systemd:
    return Systemd(arguments.systemctl) if arguments.systemctl else Systemd.of(arguments.root)


def _update(arguments: argparse.Namespace) -> int:
    releases, systemd = Releases(arguments.root), _systemd(arguments)
    with releases.locked():
        listed = _stage(releases, arguments)
        before = releases.current
        if before == listed.version:
            _say(arguments, releases, f"Foldsight {before} is in use already")
            return 0
        change(releases, systemd, listed.version)
    _begin_trial(releases, systemd)
    if arguments.no_wait or systemd.program is None:
        _say(arguments, releases, f"Foldsight {listed.version} is installed and on trial")
        return 0
    if not arguments.json:
        print(
            f"Foldsight {listed.version} is on trial; {before} comes back by itself if it does not do well", flush=True
        )
    latest = time.monotonic() + arguments.trial_s + arguments.ready_s + _SLACK_S
    while not releases.settled and time.monotonic() < latest:
        time.sleep(_ASK_S)
    outcome = releases.outcome
    if outcome is None or outcome.version != listed.version or not outcome.passed:
        if releases.current == listed.version:
            raise FoldsightError(f"the trial of {listed.version} does not end: systemctl status {GUARD_UNIT}")
        reason = outcome.reason if outcome is not None else "it was interrupted"
        raise FoldsightError(
            f"Foldsight {listed.version} was given up ({reason}); {releases.current} is used again: "
            "journalctl -u foldsight-edge says more"
        )
    _say(arguments, releases, f"Foldsight {listed.version} has passed its trial and stays")
    return 0


def _stage(releases: Releases, arguments: argparse.Namespace) -> archive.Listed:
    """Check an archive and have its own installer make an environment of it, beside the others."""
    folder = arguments.root / KEYS
    trusted = keys.trusted([folder], str(folder)) if any(folder.glob("*.pub")) else []
    if not trusted and not arguments.unsigned:
        raise FoldsightError(
            f"no key is trusted: put one into {folder}, or say --unsigned if you vouch for the archive"
        )
    if (trial := releases.trial) is not None:
        raise FoldsightError(
            f"{trial.version} is on trial: wait for its end, or go back with `foldsight software rollback`"
        )
    discard(releases.incoming)
    releases.incoming.mkdir(parents=True)
    try:
        listed = archive.unpack(arguments.path, releases.incoming, trusted)
        current = releases.current
        if current is not None and not arguments.allow_downgrade:
            _refuse_downgrade(listed.version, current)
        if listed.version != current:
            argv = ["/bin/sh", str(releases.incoming / "install.sh"), "--stage", "--root", str(arguments.root)]
            for option in ("wheelhouse", "packages_from", "python"):
                if (value := getattr(arguments, option)) is not None:
                    argv += [f"--{option.replace('_', '-')}", str(value.absolute())]
            if subprocess.run(argv, check=False).returncode:
                raise FoldsightError(
                    f"Foldsight {listed.version} could not be installed, as said above; {current} stays"
                )
    finally:
        discard(releases.incoming)
    return listed


def _refuse_downgrade(version: str, current: str) -> None:
    if store.precedence(version) < store.precedence(current):
        raise FoldsightError(
            f"Foldsight {version} is older than {current}, which is in use: say --allow-downgrade if that is meant"
        )


def change(releases: Releases, systemd: Systemd, version: str, parts: list[str] | None = None) -> None:
    """Use another release from now on; the services are not restarted here.

    Raises:
        FoldsightError: it is not whole, or the system cannot be told; then all is as before.
    """
    releases.use(version, systemd.running())
    try:
        tell(releases, systemd, parts or ())
        make_users_and_folders(releases, systemd)
    except FoldsightError as error:
        if releases.previous is not None:
            go_back(releases, systemd, str(error))
        raise


def _begin_trial(releases: Releases, systemd: Systemd) -> None:
    """The judge first, so that it sees everything; then the services, with the new release."""
    if releases.trial is not None:
        systemd("restart", GUARD_UNIT)
    restart(systemd)


def _switch(arguments: argparse.Namespace) -> int:
    releases, systemd = Releases(arguments.root), _systemd(arguments)
    with releases.locked():
        before = releases.current
        change(releases, systemd, arguments.version, arguments.part)
    if before == arguments.version:
        start(systemd)  # the installer was run again: what works goes on
    elif before is not None:
        _begin_trial(releases, systemd)
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    releases, systemd = Releases(arguments.root), _systemd(arguments)
    with releases.locked():
        gone = releases.current
        version = go_back(releases, systemd, BY_HAND)
    systemd("stop", GUARD_UNIT)
    restart(systemd)
    _say(arguments, releases, f"Foldsight {version} is used again instead of {gone}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    releases = Releases(arguments.root)
    if arguments.json:
        print(json.dumps(_as_dict(releases)))
        return 0
    trial, outcome = releases.trial, releases.outcome
    if releases.current is None:
        print("no release is installed")
    for version in reversed(releases.versions()):
        word = {releases.current: "in use", releases.previous: "before it"}.get(version, "not used")
        on_trial = trial is not None and trial.version == version
        print(f"{word:<11}{version}{', on trial' if on_trial else ''}")
    if outcome is not None and not outcome.passed:
        when = datetime.fromtimestamp(outcome.at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        print(f"{'given up':<11}{outcome.version}, {when}: {outcome.reason}")
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    version = archive.sign(arguments.path, keys.load_private(arguments.key))
    if arguments.json:
        print(json.dumps({"version": version, "signed": True}))
    else:
        print(f"{arguments.path} is signed: Foldsight {version}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Whether this release can work here: settings, model, golden outputs."""
    path = settings_file(arguments.root)
    overrides: dict[str, Any] = {}
    if arguments.root != Path("/"):
        overrides["state_dir"] = str(arguments.root / settings.Config().state_dir.relative_to("/"))
    config = settings.load(path, overrides) if path is not None else settings.Config()
    bundle = store.in_use(config)
    manifest = bundle.manifest
    print(f"settings right; {manifest.name} {manifest.version} gives its golden outputs")
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    log_to_stderr("info")
    watch(
        Releases(arguments.root),
        _systemd(arguments),
        Notifier(),
        trial_s=arguments.trial_s,
        ready_s=arguments.ready_s,
    )
    return 0


def _say(arguments: argparse.Namespace, releases: Releases, sentence: str) -> None:
    print(json.dumps(_as_dict(releases)) if arguments.json else sentence)


def _as_dict(releases: Releases) -> dict[str, Any]:
    trial, outcome = releases.trial, releases.outcome
    return {
        "current": releases.current,
        "previous": releases.previous,
        "versions": releases.versions(),
        "trial": None if trial is None else trial.model_dump(),
        "last_trial": None if outcome is None else outcome.model_dump(),
    }
