"""`foldsight-trainer clean`: look at a folder of images, and label them by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from edge.analysis import Analyser
    from trainer.clean.frames import Frame

MANIFEST, JOURNAL, INDEX = "manifest.csv", "labels.jsonl", "index.html"


def add_options(parser: Any) -> None:
    """The command's options."""
    parser.add_argument("data", type=Path, metavar="DATA", help="folder that holds the images")
    parser.add_argument("--manifest", type=Path, help="a manifest CSV (default: every image in the folder)")
    parser.add_argument("--model", default="shipped", metavar="BUNDLE", help="a bundle, `shipped` (default) or `none`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pages, the answers and the manifest")
    parser.add_argument("--annotate", action="store_true", help="serve the page for labelling, on this machine only")
    parser.add_argument("--most", type=int, help="label at most so many frames, those that matter most first")
    parser.add_argument("--port", type=int, default=8765, help="of the page (default: 8765; 0: any free one)")
    parser.add_argument("--licence", default="own images", help="of the images, as the model card will say it")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write the pages; with `--annotate`, serve the page until it is stopped."""
    from trainer.clean.sheets import summary, write_sheets  # noqa: PLC0415
    from trainer.clean.survey import look  # noqa: PLC0415

    if arguments.most is not None and arguments.most < 1:
        raise ConfigError(f"--most {arguments.most}: give 1 or more")
    survey = look(_frames(arguments), arguments.data, _analyser(arguments.model))
    index = write_sheets(survey, arguments.out)
    counts = summary(survey)
    if arguments.json:
        print(json.dumps({"pages": str(index), **counts}))
    else:
        for name, count in counts.items():
            print(f"{count:6} {name.replace('_', ' ')}")
        print(f"pages: {index}")
    if arguments.annotate:
        _annotate(arguments, survey)
    return 0


def _frames(arguments: argparse.Namespace) -> list[Frame]:
    from trainer.clean.frames import Frame, find_frames  # noqa: PLC0415
    from trainer.data.manifest import read_manifest  # noqa: PLC0415

    if arguments.manifest is None:
        return find_frames(arguments.data, arguments.licence)
    return [Frame(record) for record in read_manifest(arguments.manifest)]


def _analyser(model: str) -> Analyser | None:
    from edge.analysis import Analyser  # noqa: PLC0415
    from edge.bundle import Bundle  # noqa: PLC0415
    from edge.config import COMMITTED_BUNDLE  # noqa: PLC0415

    if model == "none":
        return None
    return Analyser(Bundle.open(COMMITTED_BUNDLE if model == "shipped" else Path(model)))


def _annotate(arguments: argparse.Namespace, survey: Any) -> None:
    from trainer.clean.annotate import LabelServer, open_labels  # noqa: PLC0415
    from trainer.clean.journal import Journal  # noqa: PLC0415

    out = arguments.out / MANIFEST
    journal = Journal(arguments.out / JOURNAL, [seen.frame for seen in survey.seen])
    app = open_labels(survey, journal, out, most=arguments.most, split=arguments.manifest is None)
    try:
        with LabelServer(app, arguments.port) as server:
            print(f"label here, stop with Ctrl-C: {server.url}", flush=True)
            try:
                server.wait()
            except KeyboardInterrupt:
                print(f"\n{len(journal.answers)} frames labelled: {out}")
    finally:
        journal.close()
