"""The commands that show evidence: `report`, `gradcam` and `corruptions`. Heavy packages are imported when they run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from trainer.stages import Run

_FEWEST = 10  # resamples, or pixels; with fewer there is nothing to see


def report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    parser.add_argument("target", type=Path, metavar="RUN|STUDY", help="folder of a run, or of a study (study.json)")
    parser.add_argument("--data", type=Path, help="folder that holds the images: measure what was not yet (a run's)")
    parser.add_argument("--out", type=Path, required=True, help="the page (.html); its JSON lies beside it")
    parser.add_argument(
        "--split", choices=("val", "test"), help="what claims rest on (default: test where answers are)"
    )
    parser.add_argument("--read-test", action="store_true", help="ask about the test split where answers are not kept")
    parser.add_argument("--repeats", type=int, default=2000, help="resamples for the intervals (default: 2000)")
    parser.add_argument("--images", type=int, default=240, help="validation images to corrupt (default: 240; 0: none)")
    parser.add_argument("--no-maps", action="store_true", help="no Grad-CAM")
    parser.add_argument("--frames", help="sources whose frames the page may show, by commas (default: all)")
    parser.add_argument("--cost", type=Path, action="append", default=[], help="JSON of arm-cost or bench; repeatedly")
    parser.add_argument(
        "--graphs", type=Path, help="write each model's graph (ROW.onnx) into this folder, for arm-cost"
    )
    parser.add_argument("--json", action="store_true", help="print the evidence as JSON")


def report(arguments: argparse.Namespace) -> int:
    """Draw the page of a run or a study."""
    from trainer.answers import STUDY  # noqa: PLC0415
    from trainer.ledger import readings_of  # noqa: PLC0415
    from trainer.report.cost import load_cost  # noqa: PLC0415
    from trainer.report.page import collect, render, write_page  # noqa: PLC0415

    for name, least in (("repeats", _FEWEST), ("images", 0)):
        if getattr(arguments, name) < least:
            raise ConfigError(f"--{name} {getattr(arguments, name)}: give {least} or more")
    costs = [load_cost(path) for path in arguments.cost]
    target: Path = arguments.target
    folder, stored = target, None
    if not (target / STUDY).exists() and not target.is_file():
        folder, stored = _gather(arguments)
    elif arguments.graphs is not None:
        raise ConfigError(f"--graphs is for a run; {target} is a study, which holds answers but no graphs")
    evidence = collect(folder, repeats=arguments.repeats, split=arguments.split)
    home = folder if folder.is_dir() else folder.parent
    readings = [*readings_of(target if target.is_dir() else home)]
    evidence["readings"] = [vars(reading) for reading in readings]
    page = render(evidence, home, readings=readings, stored=stored, costs=costs)
    write_page(page, evidence, arguments.out)
    if arguments.json:
        print(json.dumps(evidence))
    else:
        _tell(evidence)
        print(f"{arguments.out}: {len(page) / 1e6:.1f} MB; {arguments.out.with_suffix('.json').name} beside it")
    return 0


def _open(arguments: argparse.Namespace) -> Run:
    """A run with its images.

    Raises:
        ConfigError: it is none, holds nothing, or its images are not named.
    """
    from trainer.stages import recall_run  # noqa: PLC0415

    if arguments.data is None:
        raise ConfigError(f"{arguments.target} is a run: give the folder that holds its images with --data")
    run = recall_run(arguments.target, arguments.data)
    if not run.finished():
        raise ConfigError(f"{arguments.target}: no network of this run is trained yet; run its recipe first")
    return run


def _gather(arguments: argparse.Namespace) -> tuple[Path, Any]:
    from trainer.report.gather import gather_run, measure_looks, measure_robustness  # noqa: PLC0415

    run = _open(arguments)
    folder = gather_run(run, read_test=arguments.read_test)
    shown = _sources(arguments.frames)
    if arguments.images:
        measure_robustness(run, folder, images=arguments.images)
    if not arguments.no_maps:
        measure_looks(run, folder, shown=shown)
    if arguments.graphs is not None:
        arguments.graphs.mkdir(parents=True, exist_ok=True)
        for name, model in run.models(run.finished()).items():
            (arguments.graphs / f"{name}.onnx").write_bytes(model)
    kept = run.report_folder / "report.json"
    return folder, json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None


def _sources(named: str | None) -> list[str] | None:
    return None if named is None else [part.strip() for part in named.split(",") if part.strip()]


def _tell(evidence: dict[str, Any]) -> None:
    from trainer.answers import Study  # noqa: PLC0415
    from trainer.report.evidence import Task  # noqa: PLC0415
    from trainer.report.page import claims_of  # noqa: PLC0415

    study = Study.model_validate(evidence["study"])
    for claim in claims_of(study, Task.of(study), evidence):
        print(f"{claim['verdict']:>4}  {claim['text']}")


# --- gradcam ---


def gradcam_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gradcam`."""
    parser.add_argument("target", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the images")
    parser.add_argument("--rows", default="teacher,scratch,distilled", help="networks, by commas")
    parser.add_argument("--sheets", type=Path, help="a folder for sheets of right and wrong frames of every source")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def gradcam(arguments: argparse.Namespace) -> int:
    """Measure and draw where networks look in the validation split."""
    from trainer.gradcam import draw_sheets, focus_by_source  # noqa: PLC0415
    from trainer.report.gather import looks_of  # noqa: PLC0415

    run = _open(arguments)
    there = [name for name in run.finished() if name not in ("int8", "smaller")]
    rows = _sources(arguments.rows) or []
    wrong = [row for row in rows if row not in there]
    if wrong or not rows:
        raise ConfigError(f"--rows {arguments.rows}: trained networks of this run are {', '.join(there)}")
    inputs, looks, places = looks_of(run, rows)
    found = {
        row: {"layer": seen.layer, "sources": focus_by_source(seen, inputs, places)} for row, seen in looks.items()
    }
    written = [] if arguments.sheets is None else draw_sheets(arguments.sheets, inputs, looks, places)
    if arguments.json:
        print(json.dumps({"rows": found, "sheets": [str(path) for path in written]}))
        return 0
    from rich.console import Console  # noqa: PLC0415

    from trainer.report.tables import focus_table  # noqa: PLC0415

    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(focus_table(found))
    for path in written:
        print(path)
    return 0


# --- corruptions ---


def corruptions_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `corruptions`."""
    parser.add_argument("image", type=Path, help="a frame")
    parser.add_argument("--out", type=Path, required=True, help="the sheet (.png or .jpg)")
    parser.add_argument("--width", type=int, default=220, help="of each picture on it, pixels (default: 220)")


def corruptions(arguments: argparse.Namespace) -> int:
    """Draw every corruption of a frame at every strength."""
    import cv2  # noqa: PLC0415

    from trainer.robustness import draw_sheet  # noqa: PLC0415

    image = cv2.imread(str(arguments.image), cv2.IMREAD_COLOR)
    if image is None:
        raise ConfigError(f"{arguments.image}: not a readable image; name another")
    if not _FEWEST <= arguments.width <= 4096:  # noqa: PLR2004
        raise ConfigError(f"--width {arguments.width}: give {_FEWEST} to 4096 pixels")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(arguments.out), draw_sheet(image, arguments.width)):  # type: ignore[arg-type]
        raise ConfigError(f"{arguments.out}: cannot be written as a picture; name a .png or .jpg")
    print(arguments.out)
    return 0
