"""`python -m trainer.peers`, which `make bench-peers` runs in an environment of its own."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from edge.config import COMMITTED_BUNDLE
from edge.errors import FoldsightError


def main() -> int:
    """Run the command; returns 0, or 1 where it failed and said why."""
    from trainer.peers.bench import compare, markdown, remarks, table  # noqa: PLC0415  torch
    from trainer.peers.graphs import reference, shipped  # noqa: PLC0415  torch
    from trainer.peers.runtimes import PEERS  # noqa: PLC0415  torch

    parser = argparse.ArgumentParser(
        prog="python -m trainer.peers", description="The shipped model and MobileNetV2 in other runtimes."
    )
    parser.add_argument("--bundle", type=Path, default=COMMITTED_BUNDLE, help="default: the one that ships")
    parser.add_argument("--mobilenet", type=Path, metavar="ONNX", help="a trained float graph (default: untrained)")
    parser.add_argument("--peers", default=",".join(PEERS), help="by commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--calls", type=int, default=10, help="inferences of a row in a round (default: %(default)s)")
    parser.add_argument("--arm", action="store_true", help="count Arm instructions too, under emulation")
    parser.add_argument("--folder", type=Path, help="keep the converted models here")
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    given = parser.parse_args()
    names = [name.strip() for name in given.peers.split(",") if name.strip()]
    wrong = [name for name in names if name not in PEERS]
    if wrong or not names or given.rounds < 1 or given.calls < 1:
        parser.error(f"--peers takes {', '.join(PEERS)}, by commas; --rounds and --calls take 1 or more")
    try:
        with tempfile.TemporaryDirectory(prefix="foldsight-") as folder:
            keep = given.folder or Path(folder)
            first = shipped(given.bundle)
            subjects = [first, reference(first.images, given.mobilenet)]
            result = compare(subjects, names, rounds=given.rounds, calls=given.calls, keep=keep)
            if given.arm:
                from trainer.peers.arm import count  # noqa: PLC0415  only where it is asked for

                count(result, subjects, keep)
    except FoldsightError as error:
        print(f"foldsight: {error}", file=sys.stderr)
        return error.exit_code
    if given.markdown:
        given.markdown.write_text(markdown(result), encoding="utf-8")
    if given.json:
        print(json.dumps(result))
    else:
        out = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
        out.print(table(result))
        for line in remarks(result):
            out.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
