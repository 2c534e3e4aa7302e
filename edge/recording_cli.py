"""`foldsight recording list, export, delete, keygen, decrypt`: what a person does with recordings."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import sealing
from edge.errors import FoldsightError
from edge.pairing import files
from edge.recordings import Recordings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from edge.config import Config
    from edge.recordings import Kept

    Load = Callable[[argparse.Namespace], Config]


def add_actions(actions: Any, add_config: Callable[[argparse.ArgumentParser], None], load: Load) -> None:
    """Add the actions to `foldsight recording`.

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

    listed = action("list", lambda a: _list(a, load(a)), "what is kept on this adapter")
    export = action("export", lambda a: _export(a, load(a)), "copy recordings out, as they are")
    delete = action("delete", lambda a: _delete(a, load(a)), "delete recordings from this adapter")
    for added in (export, delete):
        added.add_argument("names", nargs="+", metavar="NAME|all", help="as `foldsight recording list` shows them")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    for added in (listed, export, delete):
        add_config(added)
    keygen = action(
        "keygen", _keygen, "make a pair of keys: the public one seals on the adapter, the private one opens"
    )
    keygen.add_argument("file", type=Path, metavar="FILE", help="the private key; the public one is FILE.pub")
    decrypt = action("decrypt", _decrypt, "open sealed recordings, away from the adapter")
    decrypt.add_argument("paths", nargs="+", type=Path, metavar="FILE.zip.age")
    decrypt.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key")
    decrypt.add_argument("--out", type=Path, required=True, metavar="DIR")


def _folder(config: Config) -> Recordings:
    return Recordings(config.effective_state_dir)


def _list(arguments: argparse.Namespace, config: Config) -> int:
    kept = _folder(config).all()
    if arguments.json:
        print(json.dumps([_as_dict(each) for each in kept]))
        return 0
    for each in kept:
        when = datetime.fromtimestamp(each.at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        print(f"{each.path.name:<36}{when}{each.bytes / 1e6:>9.2f} MB{'  sealed' if each.sealed else ''}")
    state = "on" if config.recording.enabled else "off"
    print(f"{len(kept)} recordings, {sum(each.bytes for each in kept) / 1e6:.2f} MB; recording is {state}")
    return 0


def _as_dict(kept: Kept) -> dict[str, Any]:
    return {"name": kept.path.name, "bytes": kept.bytes, "at": kept.at, "sealed": kept.sealed}


def _export(arguments: argparse.Namespace, config: Config) -> int:
    for kept in _folder(config).find(arguments.names):
        content = files.read(kept.path)
        if content is not None:
            _put(arguments.out / kept.path.name, content, as_json=arguments.json)
    return 0


def _delete(arguments: argparse.Namespace, config: Config) -> int:
    for kept in _folder(config).find(arguments.names):
        try:
            kept.path.unlink(missing_ok=True)
        except OSError as error:
            raise FoldsightError(f"{kept.path} cannot be deleted ({error.strerror}): run it as root") from error
        print(json.dumps({"deleted": kept.path.name}) if arguments.json else f"{kept.path.name} is deleted")
    return 0


def _keygen(arguments: argparse.Namespace) -> int:
    public = sealing.make_keys(arguments.file)
    if arguments.json:
        print(json.dumps({"private": str(arguments.file), "public": str(public)}))
    else:
        print(f"{arguments.file} opens recordings: keep it secret, and not on an adapter")
        print(f"{public} seals them: copy it to the adapter, and name it in recording.recipient")
    return 0


def _decrypt(arguments: argparse.Namespace) -> int:
    identity = sealing.load_identity(arguments.key)
    for path in arguments.paths:
        content = files.read(path)
        if content is None:
            raise FoldsightError(f"{path} is not there: give a file that `foldsight recording export` copied")
        try:
            opened = sealing.unseal(content, identity)
        except sealing.SealError as error:
            raise FoldsightError(f"{path}: {error}") from error
        _put(arguments.out / path.name.removesuffix(sealing.SUFFIX), opened, as_json=arguments.json)
    return 0


def _put(path: Path, content: bytes, *, as_json: bool) -> None:
    if path.exists():
        raise FoldsightError(f"{path} exists: nothing is overwritten; give another folder")
    files.write(path, content)
    print(json.dumps({"file": str(path), "bytes": len(content)}) if as_json else path)
