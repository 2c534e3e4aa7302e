"""`make faults`: every fault, one after the other, as a table. faults.py and supervised.py do them."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import faults
import supervised
from faults import Outcome

from edge.bundle import write_bundle

Row = Callable[[Path, Path], Outcome]


def rows(kills: int) -> dict[str, Row]:
    """What each row does, by its name: called with the model and an empty folder."""
    every: dict[str, Row] = {f.name: partial(_suffer, f) for f in faults.FAULTS}
    every.update({f.name: partial(supervised.suffer, f) for f in supervised.FAULTS})
    every["engine made for another GPU"] = _no_gpu
    if kills:
        every[f"killed {kills} times at random"] = partial(supervised.killed_at_random, kills)
    return every


def _suffer(fault: faults.Fault, bundle: Path, _: Path) -> Outcome:
    return faults.suffer(fault, bundle)


def _no_gpu(_: Path, __: Path) -> Outcome:
    return Outcome("engine made for another GPU", impossible="it needs TensorRT and a GPU (see test_tensorrt.py)")


def _done(name: str, row: Row, bundle: Path, folder: Path) -> Outcome:
    try:
        return row(bundle, folder)
    except Exception as error:  # noqa: BLE001  the other rows are still wanted
        return Outcome(name, problems=[f"{type(error).__name__}: {error}"])


def main() -> int:
    """Print the table; 1 where a row is not as it must be."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("only", nargs="*", help="words of the faults to do (default: all)")
    parser.add_argument("--kills", type=int, default=200, help="how often to kill it at random (default 200)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import tiny_files, tiny_manifest  # noqa: PLC0415  the tests' own, which pytest finds by itself

    outcomes = []
    with tempfile.TemporaryDirectory() as models:
        bundle = Path(models, "redness.zip")
        write_bundle(bundle, tiny_manifest(), tiny_files())
        for name, row in rows(arguments.kills).items():
            if arguments.only and not any(word in name for word in arguments.only):
                continue
            if sys.stderr.isatty():
                print(f"\r{name:<40}", end="", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                outcomes.append(_done(name, row, bundle, Path(folder)))
    if sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    print(json.dumps([asdict(o) for o in outcomes]) if arguments.json else faults.table(outcomes))
    return 1 if any(o.problems for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
