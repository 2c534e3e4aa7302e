"""`foldsight-trainer compare`: a comparison from the command line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import ConfigError
from trainer.options import add_machine

if TYPE_CHECKING:
    import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("recipe", help="a YAML file, or the name of a comparison that ships with Foldsight")
    parser.add_argument("--data", type=Path, help="folder that holds the images (not needed with --smoke)")
    parser.add_argument("--out", type=Path, help="folder of the comparison (default: runs/RECIPE)")
    parser.add_argument("--seeds", help="seeds of the students, by commas (default: the recipe's)")
    weights = "take a teacher's weights from another run (its best.pt); may be given repeatedly"
    parser.add_argument("--with", dest="given", action="append", default=[], metavar="TEACHER=FILE", help=weights)
    parser.add_argument("--manifest", type=Path, help="that run's manifest: the splits by which the teacher learnt")
    parser.add_argument("--smoke", action="store_true", help="the whole comparison, tiny, on generated images")
    parser.add_argument("--table", action="store_true", help="train nothing, show what is done so far, on validation")
    add_machine(parser, workers=True, accelerator=True, devices=True)
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def compare(arguments: argparse.Namespace) -> int:
    """Do, or go on with, a comparison; print its table."""
    from trainer.laboratory.recipe import LaboratoryRecipe, load_laboratory_recipe  # noqa: PLC0415
    from trainer.laboratory.smoke import smoke_laboratory_recipe, write_smoke_task  # noqa: PLC0415
    from trainer.laboratory.study import Laboratory  # noqa: PLC0415
    from trainer.laboratory.table import figures, markdown  # noqa: PLC0415
    from trainer.stages import Machine  # noqa: PLC0415

    for name in ("threads", "workers"):
        if getattr(arguments, name) < 0:
            raise ConfigError(f"--{name} {getattr(arguments, name)} is negative: give 0 or more")
    recipe = load_laboratory_recipe(arguments.recipe)
    if arguments.seeds is not None:
        recipe = LaboratoryRecipe.model_validate(recipe.model_dump() | {"seeds": _seeds(arguments.seeds)})
    out = arguments.out or Path("runs") / (recipe.name + ("-smoke" if arguments.smoke else ""))
    if arguments.smoke:
        recipe = smoke_laboratory_recipe(recipe)
        root = out / "images"
        write_smoke_task(recipe, root)
    elif arguments.data is None:
        raise ConfigError(f"{arguments.recipe} needs images: give their folder with --data, or try --smoke")
    else:
        root = arguments.data
    machine = Machine(arguments.threads, arguments.workers, arguments.accelerator, arguments.devices)
    laboratory = Laboratory(recipe, root, out, machine, _given(arguments.given), arguments.manifest)
    study = laboratory.read("val") if arguments.table else laboratory.run()
    found = figures(study, out, "val" if arguments.table else "test")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(found), encoding="utf-8")
    print(json.dumps(found) if arguments.json else markdown(found), end="\n" if arguments.json else "")
    return 0


def bench_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's arguments."""
    parser.add_argument("--teacher", default="efficientnet_b1", help="timm's name (default: efficientnet_b1)")
    parser.add_argument("--student", default="simple_resnet", help="as in a recipe (default: simple_resnet)")
    parser.add_argument("--side", type=int, default=160, help="pixels of both inputs (default: 160)")
    parser.add_argument("--images", type=int, default=256, help="of an epoch (default: 256)")
    parser.add_argument("--epochs", type=int, default=2, help="that are timed each way (default: 2)")
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def bench_distil(arguments: argparse.Namespace) -> int:
    """Time a student with answers from disk against one whose teacher is at work."""
    from pydantic import ValidationError  # noqa: PLC0415

    from trainer.laboratory.bench import bench, told  # noqa: PLC0415

    for name in ("images", "epochs"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} {getattr(arguments, name)}: give 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = bench(Path(folder), teacher=arguments.teacher, student=arguments.student, side=arguments.side,
                          images=arguments.images, epochs=arguments.epochs, threads=arguments.threads)  # fmt: skip
        except ValidationError as error:
            fault = error.errors()[0]
            raise ConfigError(f"--{fault['loc'][-1]} {fault['input']!r}: {fault['msg']}") from error
    print(json.dumps(found) if arguments.json else told(found))
    return 0


def sweep_options(parser: argparse.ArgumentParser) -> None:
    """The search's arguments."""
    parser.add_argument("recipe", help="a YAML file, or the name of a comparison that ships with Foldsight")
    parser.add_argument("--row", required=True, help="the row whose validation score is to be highest")
    varied = "a setting to search over: KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C; may be given repeatedly"
    parser.add_argument("--vary", action="append", required=True, metavar="KEY=RANGE", help=varied)
    parser.add_argument("--trials", type=int, default=20, help="in all, over everybody who joins (default: 20)")
    parser.add_argument(
        "--storage", help="an optuna database (URL); default: a journal in the folder, which may be shared"
    )
    parser.add_argument("--data", type=Path, help="folder that holds the images (not needed with --smoke)")
    parser.add_argument("--out", type=Path, help="folder of the search (default: runs/RECIPE-sweep)")
    parser.add_argument("--smoke", action="store_true", help="tiny, on generated images")
    add_machine(parser, workers=True, accelerator=True)
    parser.add_argument("--json", action="store_true", help="print the trials as JSON")


def sweep(arguments: argparse.Namespace) -> int:
    """Search over a comparison's settings."""
    from trainer.laboratory import sweep as searching  # noqa: PLC0415
    from trainer.laboratory.recipe import load_laboratory_recipe  # noqa: PLC0415
    from trainer.laboratory.smoke import smoke_laboratory_recipe, write_smoke_task  # noqa: PLC0415
    from trainer.stages import Machine  # noqa: PLC0415

    if arguments.trials < 1:
        raise ConfigError(f"--trials {arguments.trials}: give 1 or more")
    recipe = load_laboratory_recipe(arguments.recipe)
    out = arguments.out or Path("runs") / f"{recipe.name}-sweep"
    if arguments.smoke:
        recipe = smoke_laboratory_recipe(recipe)
        root = out / "images"
        write_smoke_task(recipe, root)
    elif arguments.data is None:
        raise ConfigError(f"{arguments.recipe} needs images: give their folder with --data, or try --smoke")
    else:
        root = arguments.data
    machine = Machine(arguments.threads, arguments.workers, arguments.accelerator)
    varied = [searching.parse_varied(text) for text in arguments.vary]
    found = searching.sweep(recipe, root, out, machine, arguments.row, varied, arguments.trials, arguments.storage)
    if arguments.json:
        print(json.dumps(found))
    else:
        for trial in sorted(found["trials"], key=lambda t: t["score"]):
            print(f"{trial['score']:.4f}  " + ", ".join(f"{k} {v}" for k, v in trial["settings"].items()))
    return 0


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text}: give whole numbers, by commas") from error


def _given(pairs: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--with {pair}: give TEACHER=FILE")
        found[name] = Path(path)
    return found
