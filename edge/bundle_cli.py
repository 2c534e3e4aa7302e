"""`foldsight bundle keygen, sign, install, list, rollback`: what a person does with bundles over their life."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import config as settings
from edge import keys
from edge.bundle import Bundle, sign_bundle
from edge.errors import BundleError, FoldsightError
from edge.store import BY_HAND, Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from edge.config import Config
    from edge.store import Entry, Installed

    Load = Callable[[argparse.Namespace], Config]

_NEXT = "the daemon takes it up at its next start, or now: systemctl reload foldsight-edge"


def add_actions(actions: Any, add_config: Callable[[argparse.ArgumentParser], None], load: Load) -> None:
    """Add the actions to `foldsight bundle`.

    Args:
        actions: the subparsers.
        add_config: adds the options for settings to a parser.
        load: the settings as a command's arguments have them.
    """

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true")
        added.set_defaults(run=run)
        return added

    keygen = action("keygen", _keygen, "make a key that signs bundles, and its public half beside it")
    keygen.add_argument("file", type=Path, metavar="FILE", help="the private key; the public one is FILE.pub")
    sign = action("sign", _sign, "sign a bundle")
    sign.add_argument("path", type=Path, metavar="BUNDLE")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key")
    install = action("install", lambda a: _install(a, load(a)), "check a bundle and use it from the next start on")
    install.add_argument("path", type=Path, metavar="BUNDLE")
    install.add_argument("--allow-downgrade", action="store_true", help="even if it is older than the one in use")
    listed = action("list", lambda a: _list(load(a), as_json=a.json), "what is installed")
    rollback = action("rollback", lambda a: _rollback(a, load(a)), "go back to the bundle before")
    for added in (install, listed, rollback):
        add_config(added)


def _keygen(arguments: argparse.Namespace) -> int:
    public = keys.make(arguments.file)
    if arguments.json:
        print(json.dumps({"private": str(arguments.file), "public": str(public)}))
    else:
        print(f"{arguments.file} signs bundles: keep it secret, and not on an adapter")
        print(f"{public} is what adapters trust: model.trusted_keys in their settings")
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    try:
        bundle = sign_bundle(arguments.path, keys.load_private(arguments.key))
    except OSError as error:
        raise FoldsightError(f"{arguments.path} cannot be written ({error.strerror}): check its folder") from error
    if arguments.json:
        print(json.dumps({"sha256": bundle.sha256, "signed": bundle.signed}))
    else:
        print(f"{arguments.path} is signed: {bundle.manifest.name} {bundle.manifest.version} ({bundle.sha256[:12]})")
    return 0


def _install(arguments: argparse.Namespace, config: Config) -> int:
    model = config.model
    entry = Store(config.effective_state_dir).install(
        arguments.path,
        keys=keys.trusted(model.trusted_keys),
        precision=model.precision,
        allow_downgrade=arguments.allow_downgrade,
        trial=model.trial_s > 0,
    )
    if arguments.json:
        print(json.dumps(entry.model_dump()))
        return 0
    print(f"{entry} is installed; {_NEXT}")
    if model.bundle is not None:
        print(f"But the settings name {model.bundle} (model.bundle), which goes before it.")
    if not model.trusted_keys:
        print("Signatures are not checked here: model.trusted_keys names no key.")
    return 0


def _rollback(arguments: argparse.Namespace, config: Config) -> int:
    state = Store(config.effective_state_dir).roll_back(BY_HAND)
    if arguments.json:
        print(json.dumps(state.model_dump()))
    else:
        print(f"back to {state.current or _shipped()}; {_NEXT}")
    return 0


def _list(config: Config, *, as_json: bool) -> int:
    state = Store(config.effective_state_dir).read()
    if as_json:
        named = None if config.model.bundle is None else str(config.model.bundle)
        print(json.dumps({**state.model_dump(), "settings": named, "shipped": _shipped()}))
        return 0
    if config.model.bundle is not None:
        print(f"{'settings':<11}{config.model.bundle}, which goes before all others")
    for name, entry in (("in use", state.current), ("before it", state.previous)):
        if entry is not None:
            print(f"{name:<11}{_line(entry)}{_trial(state, config) if entry is state.current else ''}")
    print(f"{'shipped':<11}{_shipped()}{'' if state.current else ', in use'}")
    if (gone := state.given_up) is not None:
        print(f"{'given up':<11}{gone.entry}, {_when(gone.at)}: {gone.reason}")
    return 0


def _line(entry: Entry) -> str:
    return f"{entry}, {'signed' if entry.signed else 'signature not checked'}, installed {_when(entry.installed_at)}"


def _trial(state: Installed, config: Config) -> str:
    if state.starts is None:
        return ""
    return f", on trial ({state.starts} of {config.model.trial_starts} starts did not end well)"


def _shipped() -> str:
    try:
        manifest = Bundle.open(settings.COMMITTED_BUNDLE, golden=False).manifest
    except BundleError as error:
        return str(error)
    return f"{manifest.name} {manifest.version}"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
