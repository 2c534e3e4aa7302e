"""`foldsight-trainer`: from labelled images to a model bundle, and the evidence for it.

torch and timm are imported by the commands that need them: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import ConfigError, FoldsightError
from trainer.adapt.command import add_options as adapt_options
from trainer.adapt.worth import add_options as worth_options
from trainer.clean.command import add_options as clean_options
from trainer.kinds import KINDS
from trainer.laboratory.command import add_options, bench_options, sweep_options
from trainer.options import add_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edge.bundle import Bundle
    from edge.runtime import Runtime
    from trainer.data.manifest import Record
    from trainer.stages import Run

NOTICE = "Research software, not a medical device."
STAGES = ("data", "pack", "teacher", "maps", "scratch", "distil", "quantise", "evaluate", "bundle")
SPLITS = ("train", "val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 done, 1 it failed and said why, 2 wrong usage or configuration.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except FoldsightError as error:
        if arguments.debug:
            raise
        print(f"foldsight-trainer: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("foldsight-trainer: stopped; the same command goes on where it was", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has gone
        return 0
    except Exception as error:
        if arguments.debug:
            raise
        said = (str(error).splitlines() or [""])[0]
        print(
            f"foldsight-trainer: unexpected {type(error).__name__}: {said}; run again with --debug for the details",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foldsight-trainer", description="Distils a large network into a small one for the adapter.", epilog=NOTICE
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_training(commands)
    _add_measuring(commands)
    _add_ablation(commands)
    _add_evidence(commands)
    _add_export(commands)
    _add_data(commands)
    _add_recipe(commands)
    return parser


def _command(place: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = place.add_parser(name, help=text, description=text, epilog=NOTICE)
    added.set_defaults(run=run)
    # Also after the command's name, where people put it.
    added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return added


def _add_training(commands: Any) -> None:
    run = _command(commands, "run", _run, "do all stages of a recipe; what is done already is not done again")
    run.add_argument("recipe", help="a YAML file, or the name of a recipe that ships with Foldsight")
    run.add_argument("--data", type=Path, help="folder that holds the images (not needed with --smoke)")
    run.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    run.add_argument("--stage", choices=STAGES, action="append", help="only up to this stage; may be given repeatedly")
    run.add_argument("--smoke", action="store_true", help="the whole recipe, tiny, on rendered images")
    add_machine(run, workers=True, accelerator=True, devices=True)
    run.add_argument("--json", action="store_true", help="print the outcome as JSON")

    compare = _command(commands, "compare", _compare, "compare methods of distillation; what is done is not done again")
    add_options(compare)
    search = _command(commands, "sweep", _sweep, "search over a comparison's settings, together with other machines")
    sweep_options(search)
    bench = _command(commands, "bench-distil", _bench_distil, "time a teacher that is asked once against one at work")
    bench_options(bench)

    segment = _command(commands, "segment", _segment, "do a segmentation study; what is done already is not done again")
    segment.add_argument("recipe", help="a YAML file, or the name of a study that ships with Foldsight: segmentation")
    segment.add_argument("--data", type=Path, help="folder that holds the images (not needed with --smoke)")
    segment.add_argument("--out", type=Path, help="folder of the study (default: runs/RECIPE)")
    segment.add_argument("--smoke", action="store_true", help="the whole study, tiny, on rendered images")
    add_machine(segment, accelerator=True)
    segment.add_argument("--student", metavar="ROW", help="leave the grid out, do the protocols with this student")
    segment.add_argument("--table", action="store_true", help="train nothing, print what is done so far")
    segment.add_argument("--markdown", type=Path, help="write the tables to this file too")
    segment.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_measuring(commands: Any) -> None:
    quantise = _command(commands, "quantise", _quantise, "INT8 against FP32, rung by rung, on the validation split")
    quantise.add_argument("target", type=Path, metavar="RUN", help="the folder of a run")
    quantise.add_argument("--data", type=Path, required=True, help="folder that holds the images")
    quantise.add_argument("--row", choices=("distilled", "smaller"), default="distilled", help="default: distilled")
    quantise.add_argument("--body", type=Path, metavar="ONNX", help="another float graph in place of the run's student")
    quantise.add_argument("--rungs", help="these rungs, by commas (default: the recipe's)")
    quantise.add_argument("--every", action="store_true", help="try all rungs, whether or not one has passed")
    quantise.add_argument("--out", type=Path, help="folder for the models and the ladder (default: RUN/ladder-ROW)")
    add_machine(quantise, workers=True)
    quantise.add_argument("--json", action="store_true", help="print the ladder as JSON")

    evaluate = _command(commands, "evaluate", _evaluate, "measure a bundle or a run through the device's own code")
    evaluate.add_argument("target", type=Path, metavar="BUNDLE|RUN", help="a bundle (.zip), or the folder of a run")
    evaluate.add_argument("--data", type=Path, required=True, help="folder that holds the images")
    evaluate.add_argument("--manifest", type=Path, help="a manifest CSV (default: the run's, or as the recipe says)")
    evaluate.add_argument("--recipe", default="vocal-folds", help="whose data rules to follow (default: vocal-folds)")
    evaluate.add_argument("--split", default="val,test", help="splits, by commas (default: val,test)")
    evaluate.add_argument("--repeats", type=int, default=1000, help="resamples for the intervals (default: 1000)")
    evaluate.add_argument("--markdown", type=Path, help="write the tables to this file too")
    evaluate.add_argument("--json", action="store_true", help="print the report as JSON")

    unseen = _command(commands, "unseen", _unseen, "leave one source out, train, and measure on it")
    unseen.add_argument("recipe", help="a YAML file, or the name of a recipe that ships with Foldsight")
    unseen.add_argument("--data", type=Path, required=True, help="folder that holds the images")
    unseen.add_argument("--out", type=Path, help="folder of the runs (default: runs/RECIPE-unseen)")
    unseen.add_argument("--sources", required=True, help="what to leave out in turn, by commas; A+B: both at once")
    unseen.add_argument("--seeds", default="0", help="seeds, by commas (default: 0)")
    unseen.add_argument("--rows", default="teacher,int8", help="what to measure, by commas (default: teacher,int8)")
    add_machine(unseen, workers=True)
    unseen.add_argument("--json", action="store_true", help="print the report as JSON")

    localise = _command(
        commands,
        "localise",
        _localise,
        "measure where a bundle sees folds, and what it wrongly takes for them",
    )
    localise.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle (.zip)")
    localise.add_argument("--data", type=Path, help="folder that holds the images (default: only the phantom)")
    localise.add_argument("--manifest", type=Path, help="a manifest CSV (default: import as the recipe says)")
    localise.add_argument("--recipe", default="vocal-folds", help="whose data rules to follow (default: vocal-folds)")
    localise.add_argument("--split", default="test", choices=SPLITS, help="split (default: test)")
    localise.add_argument("--seeds", default="0,1", help="anatomies of the phantom, by commas (default: 0,1)")
    localise.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_ablation(commands: Any) -> None:
    ablate = _command(commands, "ablate", _ablate, "measure what parts of a recipe are worth on a source left out")
    ablate.add_argument("recipe", help="a YAML file, or the name of a recipe that ships with Foldsight")
    ablate.add_argument("--data", type=Path, required=True, help="folder that holds the images")
    ablate.add_argument("--rows", default="measures", help="a YAML file, or one that ships (default: measures)")
    ablate.add_argument("--only", help="these rows, by commas (default: all)")
    ablate.add_argument("--without", required=True, help="what to leave out in turn, by commas; A+B: both at once")
    ablate.add_argument("--seeds", default="0", help="seeds, by commas (default: 0)")
    ablate.add_argument("--out", type=Path, help="folder of teachers and table (default: runs/RECIPE-ablation)")
    ablate.add_argument("--epochs", type=int, help="of each teacher (default: the recipe's)")
    ablate.add_argument("--images", type=int, help="of an epoch (default: the recipe's)")
    ablate.add_argument("--side", type=int, help="pixels of the input (default: the recipe's)")
    ablate.add_argument("--with-test", action="store_true", help="look at the source's test groups too")
    add_machine(ablate, workers=True, accelerator=True)
    ablate.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_evidence(commands: Any) -> None:
    from trainer import evidence_cli  # noqa: PLC0415

    for name, run, options, text in (
        ("report", evidence_cli.report, evidence_cli.report_options, "one page with all evidence of a run or study"),
        ("gradcam", evidence_cli.gradcam, evidence_cli.gradcam_options, "measure and draw where a run's networks look"),
        ("corruptions", evidence_cli.corruptions, evidence_cli.corruptions_options, "draw a frame's corruptions"),
    ):
        options(_command(commands, name, run, text))


def _add_export(commands: Any) -> None:
    export = _command(commands, "export", _export, "build a bundle's TensorRT engine, or add its form for ncnn")
    export.add_argument("bundle", type=Path, help="a bundle (.zip); for TensorRT one that holds a graph for it")
    what = export.add_mutually_exclusive_group(required=True)
    what.add_argument("--tensorrt", action="store_true", help="build the engine for this machine's GPU")
    what.add_argument("--ncnn", metavar="VERSION", help="write the bundle as this version, with the form for ncnn")
    export.add_argument(
        "--precision", choices=("auto", "int8", "fp16"), default="auto", help="default: auto, INT8 first"
    )
    export.add_argument("--out", type=Path, default=Path("engines"), help="folder for what is made (default: engines)")
    export.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _add_data(commands: Any) -> None:
    clean = _command(commands, "clean", _clean, "look at own images: odd ones, duplicates, labelling by key")
    clean_options(clean)
    adapt = _command(commands, "adapt", _adapt, "adapt a bundle to a clinic with its own few labelled frames")
    adapt_options(adapt)
    buys = _command(commands, "adapt-worth", _adapt_worth, "measure what a few frames of an unseen source buy")
    worth_options(buys)
    data = commands.add_parser("data", help="look at the images before training").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name, text in (
        ("import", "import the images and write their manifest"),
        ("audit", "look for duplicates across splits and for faulty rows"),
        ("sheet", "draw sheets of augmented training images, to look at"),
    ):
        added = _command(data, name, _DATA[name], text)
        added.add_argument("--data", type=Path, required=True, help="folder that holds the images")
        added.add_argument("--recipe", default="vocal-folds", help="whose data rules to follow (default: vocal-folds)")
        if name != "import":
            added.add_argument("--manifest", type=Path, help="a manifest CSV (default: import as the recipe says)")
        if name != "audit":
            added.add_argument("--out", type=Path, required=True, help={"import": "the CSV", "sheet": "a folder"}[name])
        added.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _export(arguments: argparse.Namespace) -> int:
    from edge.bundle import Bundle  # noqa: PLC0415
    from trainer.tensorrt import export_engine  # noqa: PLC0415

    def tell(line: str) -> None:
        print(f"foldsight-trainer: {line}", file=sys.stderr, flush=True)

    bundle = Bundle.open(arguments.bundle)
    if arguments.ncnn is not None:
        return _export_ncnn(bundle, arguments)
    found = export_engine(bundle, arguments.out, precision=arguments.precision, tell=tell)
    if arguments.json:
        print(json.dumps(found))
        return 0
    ours, theirs = found["latency_ms"], found["onnxruntime_ms"]
    print(f"{found['description']}\n{found['engine']}")
    print(
        f"one inference {ours['p50']} ms (p50), {ours['p99']} ms (p99); ONNX Runtime {theirs['p50']}, {theirs['p99']}"
    )
    print(f"golden inputs: {found['agreement']:.0%} the same label, scores differ by at most {found['difference']:.4f}")
    return 0


def _export_ncnn(bundle: Bundle, arguments: argparse.Namespace) -> int:
    from edge.runtime.ncnn import load_ncnn, ncnn_version  # noqa: PLC0415
    from trainer.export import with_ncnn  # noqa: PLC0415

    manifest = bundle.manifest
    made = with_ncnn(bundle, arguments.out / f"{manifest.name}-{arguments.ncnn}.zip", arguments.ncnn)
    size = made.path.stat().st_size
    difference = None
    if ncnn_version() is not None:
        artefact = made.artefact("auto", "ncnn")
        runtime = load_ncnn(made, artefact)
        difference = made.check_golden(artefact, runtime)
    if arguments.json:
        print(json.dumps({"bundle": str(made.path), "bytes": size, "golden_difference": difference}))
        return 0
    print(f"{made.path}: {size} bytes, not signed")
    if difference is None:
        print("ncnn is not installed here, so its golden outputs were not tried: install foldsight[ncnn]")
    else:
        print(f"{runtime.description}: golden scores differ by at most {difference:.4f}")
    return 0


def _add_recipe(commands: Any) -> None:
    recipe = commands.add_parser("recipe", help="show a recipe, or what one may hold").add_subparsers(
        required=True, metavar="COMMAND"
    )
    show = _command(recipe, "show", _recipe_show, "print a recipe with every setting, its defaults filled in")
    show.add_argument("recipe", help="a YAML file, or the name of a recipe that ships with Foldsight")
    show.add_argument("--json", action="store_true", help="as JSON")
    schema = _command(recipe, "schema", _recipe_schema, "print the JSON Schema of recipes")
    schema.add_argument("--kind", choices=KINDS, default="bundle", help="of which kind of recipe (default: bundle)")


# --- run ---


def _run(arguments: argparse.Namespace) -> int:
    from trainer.kinds import BUNDLE, kind_of  # noqa: PLC0415
    from trainer.recipe import load_recipe  # noqa: PLC0415
    from trainer.smoke import smoke_recipe, write_smoke_images  # noqa: PLC0415
    from trainer.stages import Machine, Run  # noqa: PLC0415

    for name in ("threads", "workers"):
        if getattr(arguments, name) < 0:
            raise ConfigError(f"--{name} {getattr(arguments, name)} is negative: give 0 or more")
    kind = kind_of(arguments.recipe)
    if kind != BUNDLE:
        return _run_study(kind, arguments)
    recipe = load_recipe(arguments.recipe)
    out = arguments.out or Path("runs") / (recipe.name + ("-smoke" if arguments.smoke else ""))
    if arguments.smoke:
        recipe = smoke_recipe(recipe)
        root = out / "images"
        write_smoke_images(root, recipe.seed)
    elif arguments.data is None:
        raise ConfigError("run needs images: give their folder with --data, or try --smoke")
    else:
        root = arguments.data
    machine = Machine(arguments.threads, arguments.workers, arguments.accelerator, arguments.devices)
    run = Run(recipe, root, out, machine)
    run.remember()
    stages = arguments.stage or [STAGES[-1]]
    outcome = {stage: _stage(run, stage) for stage in STAGES if stage in stages}
    if "bundle" in stages or "evaluate" in stages:
        report = run.evaluate()
        if arguments.json:
            outcome["report"] = report
        else:
            _print_report(report, recipe.labels, recipe.finding)
    if arguments.json:
        print(json.dumps(outcome))
    else:
        for stage, result in outcome.items():
            print(f"{stage}: {result}")
    return 0


def _run_study(kind: str, arguments: argparse.Namespace) -> int:
    """Hand a study's recipe to the command that does it."""
    from trainer.kinds import COMMANDS  # noqa: PLC0415

    if arguments.stage:
        raise ConfigError(f"--stage {arguments.stage[0]}: a {kind} such as {arguments.recipe} has none; leave it out")
    words = [COMMANDS[kind], arguments.recipe, "--accelerator", arguments.accelerator]
    words += [f"--{name}" for name in ("smoke", "json") if getattr(arguments, name)]
    for name, default in (("data", None), ("out", None), ("threads", 0), ("workers", 0), ("devices", 1)):
        value = getattr(arguments, name)
        words += [] if value == default else [f"--{name}", str(value)]
    study = _parser().parse_args(words)
    return int(study.run(study))


def _stage(run: Run, stage: str) -> Any:
    if stage == "data":
        return len(run.records)
    if stage == "pack":
        return len(run.pack)
    if stage == "maps":
        return str(run.soft_masks())
    if stage == "evaluate":
        run.evaluate()
        return str(run.report_folder)
    return str(getattr(run, stage)())


# --- compare ---


def _compare(arguments: argparse.Namespace) -> int:
    from trainer.laboratory.command import compare  # noqa: PLC0415

    return compare(arguments)


def _sweep(arguments: argparse.Namespace) -> int:
    from trainer.laboratory.command import sweep  # noqa: PLC0415

    return sweep(arguments)


def _bench_distil(arguments: argparse.Namespace) -> int:
    from trainer.laboratory.command import bench_distil  # noqa: PLC0415

    return bench_distil(arguments)


# --- segment ---


def _segment(arguments: argparse.Namespace) -> int:
    from trainer.segment.recipe import load_segment_recipe  # noqa: PLC0415
    from trainer.segment.report import markdown, report  # noqa: PLC0415
    from trainer.segment.smoke import smoke_segment_recipe, write_smoke_masks  # noqa: PLC0415
    from trainer.segment.study import Study  # noqa: PLC0415
    from trainer.stages import Machine  # noqa: PLC0415

    if arguments.threads < 0:
        raise ConfigError(f"--threads {arguments.threads} is negative: give 0 or more")
    recipe = load_segment_recipe(arguments.recipe)
    out = arguments.out or Path("runs") / (recipe.name + ("-smoke" if arguments.smoke else ""))
    if arguments.smoke:
        recipe = smoke_segment_recipe(recipe)
        root = out / "images"
        write_smoke_masks(root, recipe.seed)
    elif arguments.data is None:
        raise ConfigError("segment needs images: give their folder with --data, or try --smoke")
    else:
        root = arguments.data
    study = Study(recipe, root, out, Machine(arguments.threads, accelerator=arguments.accelerator))
    student = study.named(arguments.student) if arguments.student else None
    found = report(study, student or study.best() if arguments.table else study.run(student))
    if arguments.markdown:
        arguments.markdown.write_text(markdown(found), encoding="utf-8")
    print(json.dumps(found) if arguments.json else markdown(found), end="\n" if arguments.json else "")
    return 0


# --- quantise ---


def _quantise(arguments: argparse.Namespace) -> int:
    from trainer.quantise.command import quantise  # noqa: PLC0415

    return quantise(arguments)


# --- evaluate ---


def _evaluate(arguments: argparse.Namespace) -> int:
    from trainer.evaluate import evaluate_split, run_model  # noqa: PLC0415
    from trainer.inputs import prepare_inputs  # noqa: PLC0415
    from trainer.ledger import note_reading  # noqa: PLC0415
    from trainer.recipe import digest  # noqa: PLC0415
    from trainer.report import markdown  # noqa: PLC0415

    splits = [split.strip() for split in arguments.split.split(",") if split.strip()]
    wrong = [split for split in splits if split not in SPLITS]
    if wrong or not splits:
        raise ConfigError(f"--split {arguments.split}: give one or more of {', '.join(SPLITS)}, by commas")
    if arguments.repeats < 1:
        raise ConfigError(f"--repeats {arguments.repeats}: give 1 or more")
    subject = _open_subject(arguments)
    report: dict[str, Any] = {"target": str(arguments.target), "splits": {}}
    if subject.judging.decision:
        report["decision"] = subject.judging.decision.model_dump()
    with tempfile.TemporaryDirectory() as folder:
        for split in splits:
            records = [record for record in subject.records if record.split == split]
            if not records:
                raise ConfigError(f"{arguments.data}: no image is in the {split} split; choose others with --split")
            if split == "test" and arguments.target.is_dir():
                files = [model for model in subject.models.values() if isinstance(model, bytes)]
                models = digest(*(hashlib.sha256(model).hexdigest() for model in files))
                note_reading(arguments.target, "evaluate", models, len(records))
            inputs = prepare_inputs(records, arguments.data, subject.spec, Path(folder) / split, subject.judging.labels)
            count = len(subject.judging.labels)
            answers = {name: run_model(model, inputs, title=f"{name} on {split}", labels=count).logits
                       for name, model in subject.models.items()}  # fmt: skip
            report["splits"][split] = evaluate_split(
                answers, inputs, subject.judging, repeats=arguments.repeats, seed=subject.seed
            )
            del inputs
    if arguments.markdown:
        arguments.markdown.write_text(markdown(report, subject.judging), encoding="utf-8")
    if arguments.json:
        print(json.dumps(report))
    else:
        _print_report(report, subject.judging.labels, subject.judging.finding)
    return 0


class _Subject:
    """What is evaluated, and on which records."""

    def __init__(
        self, judging: Any, spec: Any, models: Mapping[str, bytes | Runtime], records: list[Record], seed: int
    ) -> None:
        self.judging, self.spec, self.models, self.records, self.seed = judging, spec, models, records, seed


def _open_subject(arguments: argparse.Namespace) -> _Subject:
    from edge.bundle import Bundle, DecisionSpec  # noqa: PLC0415
    from edge.runtime.ncnn import open_ncnn  # noqa: PLC0415
    from trainer.evaluate import Judging  # noqa: PLC0415
    from trainer.stages import recall_run  # noqa: PLC0415

    target: Path = arguments.target
    if target.is_dir():
        run = recall_run(target, arguments.data)
        names = run.finished()
        if not names:
            raise ConfigError(f"{target}: no network of this run is trained yet; run its recipe first")
        report = run.evaluate() if set(run.rows) <= set(names) else {}
        decision = DecisionSpec.model_validate(report["decision"]) if report else None
        judging = Judging(run.recipe.labels, run.recipe.finding, decision)
        records = _manifest(arguments) or run.records
        return _Subject(judging, run.recipe.input, run.models(names), records, run.recipe.seed)
    bundle = Bundle.open(target)
    manifest = bundle.manifest
    judging = Judging(manifest.labels, manifest.finding, manifest.decision)
    models: dict[str, bytes | Runtime] = {
        "smaller" if artefact.role == "smaller" else artefact.precision: bundle.files[artefact.file]
        for artefact in manifest.artefacts
        if artefact.runtime != "ncnn"
    }
    if any(artefact.runtime == "ncnn" for artefact in manifest.artefacts):
        models["ncnn"] = open_ncnn(bundle)[1]
    records = _manifest(arguments) or _imported(arguments)
    _warn_of_other_data(records, arguments.data, manifest.data_sha256)
    return _Subject(judging, manifest.input, models, records, 0)


def _warn_of_other_data(records: list[Record], root: Path, expected: str) -> None:
    from trainer.console import say  # noqa: PLC0415
    from trainer.data.manifest import data_hash  # noqa: PLC0415

    if data_hash(records, root) != expected:
        say(
            "note: these are not the very images and splits that the bundle was made with: "
            "unless you know them to be new to it, it may have learnt from some of them"
        )


def _print_report(report: dict[str, Any], labels: Sequence[str], finding: str) -> None:
    from rich.console import Console  # noqa: PLC0415

    from trainer.evaluate import Judging  # noqa: PLC0415
    from trainer.report import remarks, terminal_tables  # noqa: PLC0415

    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=160)
    for table in terminal_tables(report, Judging(labels, finding)):
        out.print(table)
    for line in remarks(report):
        out.print(line)


# --- unseen ---


def _unseen(arguments: argparse.Namespace) -> int:
    from trainer.evaluate import TITLES, Judging  # noqa: PLC0415
    from trainer.recipe import load_recipe  # noqa: PLC0415
    from trainer.stages import Machine, Run  # noqa: PLC0415
    from trainer.unseen import Held, leave_out, measure  # noqa: PLC0415

    recipe = load_recipe(arguments.recipe)
    sources, rows, seeds = (
        [part.strip() for part in text.split(",") if part.strip()]
        for text in (arguments.sources, arguments.rows, arguments.seeds)
    )
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds {arguments.seeds}: give whole numbers from 0 on, by commas")
    wrong = [row for row in rows if row not in TITLES]
    if wrong or not rows or not sources:
        raise ConfigError(f"--rows {arguments.rows} --sources {arguments.sources}: rows are of {', '.join(TITLES)}")
    out = arguments.out or Path("runs") / f"{recipe.name}-unseen"
    machine = Machine(arguments.threads, arguments.workers)
    answers = {
        source: {seed: leave_out(recipe, arguments.data, out, machine, Held(source, int(seed)), rows) for seed in seeds}
        for source in sources
    }
    whole = Run(recipe, arguments.data, out / "whole", machine)
    report = measure(answers, Judging(recipe.labels, recipe.finding), recipe.decide, repeats=recipe.evaluate.repeats,
                     spared={record.name() for record in whole.records if record.split == "test"})  # fmt: skip
    if arguments.json:
        print(json.dumps(report))
    else:
        from rich.console import Console  # noqa: PLC0415

        from trainer.report import unseen_table  # noqa: PLC0415

        Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(unseen_table(report))
    return 0


# --- ablate ---


def _ablate(arguments: argparse.Namespace) -> int:
    from trainer.ablate import command  # noqa: PLC0415

    return command(arguments)


# --- localise ---


def _localise(arguments: argparse.Namespace) -> int:
    from edge.bundle import Bundle  # noqa: PLC0415
    from trainer.localise import localise_images, localise_phantom, other_anatomy  # noqa: PLC0415

    bundle = Bundle.open(arguments.bundle)
    if not all(seed.strip().isdecimal() for seed in arguments.seeds.split(",")):
        raise ConfigError(f"--seeds {arguments.seeds}: give whole numbers from 0 on, by commas")
    found: dict[str, Any] = {}
    if arguments.data is not None:
        records = _manifest(arguments) or _imported(arguments)
        records = [record for record in records if record.split == arguments.split and record.source != "phantom"]
        if not records:
            raise ConfigError(f"{arguments.data}: no image is in the {arguments.split} split; choose another")
        found["guards"] = other_anatomy(bundle, records, arguments.data)
        if bundle.manifest.outputs.maps is not None:
            found["images"] = localise_images(bundle, records, arguments.data)
    if bundle.manifest.outputs.maps is not None:
        found["phantom"] = localise_phantom(bundle, [int(seed) for seed in arguments.seeds.split(",")])
    if not found:
        raise ConfigError(f"{arguments.bundle} has no maps, so there are no regions: give --data to measure its guards")
    if arguments.json:
        print(json.dumps(found))
    else:
        _print_places(found)
    return 0


def _print_places(found: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415

    from trainer.report import guard_table, place_table  # noqa: PLC0415

    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=180)
    if "guards" in found:
        out.print(guard_table(found["guards"]))
    for name in ("images", "phantom"):
        if name in found:
            out.print(place_table(found[name], name))


# --- adapt ---


def _adapt(arguments: argparse.Namespace) -> int:
    from trainer.adapt.command import run  # noqa: PLC0415

    return run(arguments)


def _adapt_worth(arguments: argparse.Namespace) -> int:
    from trainer.adapt.worth import run  # noqa: PLC0415

    return run(arguments)


# --- clean ---


def _clean(arguments: argparse.Namespace) -> int:
    from trainer.clean.command import run  # noqa: PLC0415

    return run(arguments)


# --- data ---


def _manifest(arguments: argparse.Namespace) -> list[Record] | None:
    from trainer.data.manifest import read_manifest  # noqa: PLC0415

    return read_manifest(arguments.manifest) if getattr(arguments, "manifest", None) else None


def _imported(arguments: argparse.Namespace) -> list[Record]:
    from trainer.console import say  # noqa: PLC0415
    from trainer.recipe import load_recipe  # noqa: PLC0415
    from trainer.stages import import_records  # noqa: PLC0415

    recipe = load_recipe(arguments.recipe)
    if not arguments.data.is_dir():
        raise ConfigError(f"{arguments.data}: no such folder; give the folder that holds the images with --data")
    records, notes = import_records(recipe, arguments.data)
    for note in notes:
        say(note)
    return records


def _data_import(arguments: argparse.Namespace) -> int:
    from trainer.data.manifest import write_manifest  # noqa: PLC0415

    records = _imported(arguments)
    write_manifest(arguments.out, records)
    counts: dict[str, int] = {}
    for record in records:
        key = f"{record.split} {record.source} {record.label}"
        counts[key] = counts.get(key, 0) + 1
    if arguments.json:
        print(json.dumps({"manifest": str(arguments.out), "images": len(records), "counts": counts}))
    else:
        for key in sorted(counts):
            print(f"{counts[key]:6} {key}")
        print(f"{len(records):6} in all: {arguments.out}")
    return 0


def _data_audit(arguments: argparse.Namespace) -> int:
    from trainer.data.audit import audit  # noqa: PLC0415

    report = audit(_manifest(arguments) or _imported(arguments), arguments.data)
    pairs = [str(pair) for pair in report.pairs]
    if arguments.json:
        print(json.dumps({"clean": report.clean, "images": report.images, "problems": report.problems, "pairs": pairs}))
    else:
        for line in (*report.problems, *pairs):
            print(line)
        print(f"{report.images} images, {len(report.problems)} problems, {len(pairs)} duplicates across splits")
    return 0 if report.clean else 1


def _data_sheet(arguments: argparse.Namespace) -> int:
    from trainer.data.dataset import TrainSet  # noqa: PLC0415
    from trainer.data.pack import Pack  # noqa: PLC0415
    from trainer.data.sheet import write_train_sheets  # noqa: PLC0415
    from trainer.recipe import load_recipe  # noqa: PLC0415

    recipe = load_recipe(arguments.recipe)
    records = [r for r in _manifest(arguments) or _imported(arguments) if r.split == "train"]
    with tempfile.TemporaryDirectory() as folder:
        pack = Pack.open_or_build(records, arguments.data, Path(folder))
        written = [
            str(p) for p in write_train_sheets(arguments.out, TrainSet(pack, records, recipe.augment, recipe.seed))
        ]
    print(json.dumps({"sheets": written}) if arguments.json else "\n".join(written))
    return 0


_DATA = {"import": _data_import, "audit": _data_audit, "sheet": _data_sheet}


# --- recipe ---


def _recipe_show(arguments: argparse.Namespace) -> int:
    import yaml  # noqa: PLC0415

    from trainer.kinds import load_any  # noqa: PLC0415

    content = load_any(arguments.recipe).model_dump(mode="json")
    print(json.dumps(content, indent=1) if arguments.json else yaml.safe_dump(content, sort_keys=False).rstrip())
    return 0


def _recipe_schema(arguments: argparse.Namespace) -> int:
    from trainer.kinds import recipe_class  # noqa: PLC0415

    print(json.dumps(recipe_class(arguments.kind).model_json_schema(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
