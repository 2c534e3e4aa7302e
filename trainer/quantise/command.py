"""The command `foldsight-trainer quantise`: the ladder by itself, on a run that is there."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import onnx
from rich.console import Console

from edge.errors import ConfigError
from trainer.quantise.ladder import TITLES, ladder_table
from trainer.quantise.stage import quantise_row, write_results
from trainer.stages import Machine, locked, recall_run

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def quantise(arguments: argparse.Namespace) -> int:
    """Climb the ladder, write what came of it, and print it; returns 0 where the gate passes, else 1."""
    run = recall_run(arguments.target, arguments.data)
    run.machine = Machine(arguments.threads, arguments.workers)
    if arguments.row == "smaller" and run.recipe.smaller is None:
        raise ConfigError(f"recipe {run.recipe.name} has no smaller student: leave --row out")
    if arguments.rungs is not None:
        rungs = [rung.strip() for rung in arguments.rungs.split(",") if rung.strip()]
        wrong = [rung for rung in rungs if rung not in TITLES]
        if wrong or not rungs:
            raise ConfigError(f"--rungs {arguments.rungs}: give one or more of {', '.join(TITLES)}, by commas")
        settings = run.recipe.quantise.model_copy(update={"ladder": rungs})
        run.recipe = run.recipe.model_copy(update={"quantise": settings})
    folder = arguments.out or run.out / f"ladder-{arguments.row}"
    body = None if arguments.body is None else read_graph(arguments.body)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        found = quantise_row(run, arguments.row, folder, body=body, every=arguments.every)
        write_results(found, folder)
    told = found.as_dict()
    if arguments.json:
        print(json.dumps(told))
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(ladder_table(told))
    return 0 if told["passed"] else 1


def read_graph(path: Path) -> onnx.ModelProto:
    """A float graph from a file.

    Raises:
        ConfigError: it is not there, or no ONNX.
    """
    try:
        return onnx.load_model(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give an ONNX file with --body") from error
    except Exception as error:  # protobuf's own classes
        raise ConfigError(f"{path} is no ONNX file: give one with --body") from error
