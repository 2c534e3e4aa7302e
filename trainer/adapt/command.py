"""`foldsight-trainer adapt`: a shipped bundle for one clinic, from twenty to a hundred of its own labelled frames."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge.errors import ConfigError
from trainer.console import say
from trainer.options import add_machine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from edge.bundle import Bundle, DecisionSpec
    from trainer.adapt.choose import Bench, Way
    from trainer.adapt.student import Student
    from trainer.data.manifest import Record

_RENDERED = 240  # frames of the phantom that keep a refit from forgetting
_SEED = 77_001  # of anatomies that no recipe trains on
_REPLAY = 0.3  # how much they count beside the given frames
_QUANTISING_COSTS = 0.02  # of balanced accuracy, at most


def add_options(parser: Any) -> None:
    """The command's options."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the shipped bundle (.zip)")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the labelled frames")
    parser.add_argument("--manifest", type=Path, help="a manifest CSV; rows of its test split are left for measuring "
                        "(default: every frame below a folder called folds or no_folds)")  # fmt: skip
    parser.add_argument("--run", type=Path, dest="trained", metavar="RUN", help="folder of the run that made "
                        "the bundle; without it only the operating point is adapted")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="the adapted bundle (.zip)")
    parser.add_argument("--seed", type=int, default=0, help="of folds and fits (default: 0)")
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print what was tried as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Adapt where it is shown to help; 0 also where nothing helps, and then no bundle is written."""
    from edge.bundle import Bundle  # noqa: PLC0415

    bundle = Bundle.open(arguments.bundle)
    records = labelled(arguments.data, arguments.manifest)
    with tempfile.TemporaryDirectory() as folder:
        outcome = adapt(
            bundle, records, arguments.data, arguments.out, trained=arguments.trained, seed=arguments.seed,
            threads=arguments.threads, scratch=Path(folder),
        )  # fmt: skip
    if arguments.json:
        print(json.dumps(outcome))
        return 0
    for way in outcome["ways"]:
        better = (
            "" if way["better"] is None else f", better than the last one kept with a chance of {way['better']:.2f}"
        )
        lost = "" if not way["forgets"] else f", loses {100 * way['forgets']:.1f} points on rendered frames"
        print(f"{way['way']:16} {100 * way['balanced_accuracy']:5.1f} %{better}{lost}{', kept' if way['kept'] else ''}")
    if outcome["bundle"]:
        print(
            f"adapted: {outcome['chosen']}: {outcome['bundle']} (sign it, then measure it on frames that took no part)"
        )
    else:
        print("no gain: the shipped bundle stays, and none was written")
    return 0


def labelled(root: Path, manifest: Path | None) -> list[Record]:
    """The given frames, those for testing left out.

    Raises:
        ConfigError: there are none.
    """
    from trainer.clean.frames import find_frames  # noqa: PLC0415
    from trainer.data.manifest import read_manifest  # noqa: PLC0415

    if manifest is not None:
        found = [record for record in read_manifest(manifest) if record.split != "test"]
    else:
        found = [frame.record for frame in find_frames(root, "own images") if frame.labelled]
    if not found:
        raise ConfigError(f"{manifest or root}: no labelled frame to adapt with; label some (foldsight-trainer clean)")
    return found


class Rendered(NamedTuple):
    """Frames of the phantom that every refit also answers."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def rendered(bundle: Bundle) -> Rendered:
    """Frames of the phantom with their labels, as the device sees them."""
    from edge.capture.phantom import Variety, training_frames  # noqa: PLC0415
    from edge.optics import find_aperture  # noqa: PLC0415
    from edge.preprocess import Preprocessor  # noqa: PLC0415

    preprocess = Preprocessor(bundle.manifest.input)
    images, labels = [], []
    for image, truth in training_frames(_RENDERED, _SEED, detail=400, variety=Variety()):
        if not truth.ambiguous:
            aperture = find_aperture(image)
            images.append(preprocess(image, None if aperture is None else aperture.box)[0].copy())
            labels.append(bundle.manifest.labels.index("folds") if truth.visible else 0)
    return Rendered(np.stack(images), np.array(labels, np.int64))


class Tried(NamedTuple):
    """What was tried on some given frames.

    Attributes:
        bundle: the shipped one.
        bench: the frames that are fit to be judged.
        refit: of its student; None where there is none.
        ways: validated, from the least change to the most.
    """

    bundle: Bundle
    bench: Bench
    refit: _Refit | None
    ways: Sequence[Way]

    def made(self, way: Way) -> tuple[bytes | None, DecisionSpec]:
        """A way's INT8 model, None where it is the shipped one, and its operating point."""
        from trainer.adapt import choose  # noqa: PLC0415

        if way.name == choose.SHIPPED:
            return None, self.bench.shipped
        refit = None if self.refit is None or way.name == choose.POINT else self.refit
        return None if refit is None else refit.quantised(way.name), self.bench.point(way.logits)

    def best(self) -> tuple[Way, bytes | None, DecisionSpec]:
        """The last way that was kept and does not lose by quantising; its INT8 model and operating point."""
        from trainer.evaluate import run_model  # noqa: PLC0415

        for way in (way for way in reversed(self.ways) if way.kept):
            model, decision = self.made(way)
            if model is None or self.refit is None:
                break
            say("adapt: the INT8 model is checked against what it was made of")
            count = len(self.bundle.manifest.labels)
            narrow = run_model(model, self.bench.inputs, title="the adapted INT8 model", labels=count).logits
            lost = _lost_by_quantising(self.bench, self.refit.logits(way.name), narrow, decision)
            if lost is None:
                break
            say(f"adapt: {way.name} is left out: in INT8 it answers {100 * lost:.1f} points of the frames worse")
        return way, model, decision


def try_ways(
    bundle: Bundle, records: list[Record], root: Path, *, trained: Path | None, seed: int, threads: int, scratch: Path,
    more: Rendered | None = None,
) -> Tried:  # fmt: skip
    """Validate every way.

    Args:
        bundle: the shipped one.
        records: the given frames.
        root: their data root.
        trained: the folder of its run; None adapts the operating point only.
        seed: of folds and fits.
        threads: of torch; 0 for its own choice.
        scratch: a folder for what is prepared.
        more: rendered frames that are there already; None renders them.
    """
    from trainer.adapt import choose  # noqa: PLC0415
    from trainer.evaluate import Judging, run_model  # noqa: PLC0415
    from trainer.inputs import prepare_inputs  # noqa: PLC0415
    from trainer.recipe import DecideSettings  # noqa: PLC0415

    spec = bundle.manifest
    every = prepare_inputs(records, root, spec.input, scratch / "own", spec.labels)
    inputs = every.take(np.flatnonzero(every.fit))
    choose.check_enough(inputs.labels, inputs.groups)
    primary = bundle.files[bundle.artefact("int8").file]
    point = spec.decision
    decide = DecideSettings(smoothing_s=point.smoothing_s, dwell_s=point.dwell_s, expire_s=point.expire_s)
    logits = run_model(primary, inputs, title="the shipped model", labels=len(spec.labels)).logits
    bench = choose.Bench(inputs, logits, point, Judging(spec.labels, spec.finding), decide, seed)
    refit = None if trained is None else _Refit(bench, _student(bundle, trained, threads), more or rendered(bundle))
    return Tried(bundle, bench, refit, choose.validate(bench, [] if refit is None else refit.ways()))


def adapt(
    bundle: Bundle, records: list[Record], root: Path, out: Path, *, trained: Path | None, seed: int, threads: int,
    scratch: Path,
) -> dict[str, Any]:  # fmt: skip
    """Validate every way, and write a bundle by the best of those that surely help.

    Args:
        bundle: as of `try_ways`, like all that is not named here.
        records: as there.
        root: as there.
        out: the adapted bundle.
        trained: as there.
        seed: as there.
        threads: as there.
        scratch: as there.

    Returns:
        `ways`, `chosen`, `bundle` (its path, or None where nothing helps), `frames`, `groups`.
    """
    from trainer.adapt import choose, ship  # noqa: PLC0415
    from trainer.data.manifest import data_hash  # noqa: PLC0415

    ship.check_place(out, bundle)
    tried = try_ways(bundle, records, root, trained=trained, seed=seed, threads=threads, scratch=scratch)
    best, model, decision = tried.best()
    inputs = tried.bench.inputs
    groups = len(set(inputs.groups))
    outcome: dict[str, Any] = {
        "ways": [way.as_dict() for way in tried.ways], "chosen": best.name, "bundle": None,
        "frames": len(inputs.labels), "groups": groups,
    }  # fmt: skip
    if best.name == choose.SHIPPED:
        return outcome
    each = np.bincount(inputs.labels, minlength=2)
    counts = {"frames": len(inputs.labels), "groups": groups, "folds": int(each[1]), "no_folds": int(each[0]),
              "unfit": len(records) - len(inputs.labels), "data_sha256": data_hash(records, root)}  # fmt: skip
    licences = sorted({record.licence for record in records})
    out.parent.mkdir(parents=True, exist_ok=True)
    ship.write_adapted(out, bundle, way=best, ways=tried.ways, decision=decision, model=model, counts=counts,
                       licences=licences)  # fmt: skip
    outcome["bundle"] = str(out)
    return outcome


def _student(bundle: Bundle, trained: Path, threads: int) -> Student:
    import torch  # noqa: PLC0415

    from trainer.adapt.ship import golden_of  # noqa: PLC0415
    from trainer.adapt.student import find_student  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)
    return find_student(trained, bundle, golden_of(bundle))


def _lost_by_quantising(
    bench: Bench, wide: NDArray[np.float32], narrow: NDArray[np.float32], decision: DecisionSpec
) -> float | None:
    """Balanced accuracy that INT8 loses on the given frames, where that is too much; None where it is not."""
    from trainer.adapt.choose import balanced  # noqa: PLC0415

    even = np.ones((1, len(wide)))
    lost = float(balanced(bench.truth, bench.said(wide, decision), even)[0]) - float(
        balanced(bench.truth, bench.said(narrow, decision), even)[0]
    )
    fewest = int(np.bincount(bench.truth.astype(np.int64), minlength=2).min())
    one_frame = 0.5 / max(1, fewest)  # of few frames one says nothing
    return lost if lost > max(_QUANTISING_COSTS, one_frame + 1e-9) else None


class _Refit:
    """Refits of one student, on the given frames and the rendered ones."""

    def __init__(self, bench: Bench, student: Student, more: Rendered) -> None:
        self._bench, self._student, self._more = bench, student, more
        self._own = student.views(bench.inputs.images)
        # Half of the rendered frames are learnt from, the other half tells what is forgotten.
        self._half = len(more.labels) // 2
        every = student.views(more.images)
        self._replay = every.take(np.arange(self._half))
        self._check = every.take(np.arange(self._half, len(more.labels)))
        self._whole: dict[str, nn.ModuleDict] = {}

    def ways(self) -> list[tuple[str, Callable[[NDArray[np.bool_]], NDArray[np.float32]], Callable[[], float]]]:
        """The ways for which there are enough frames."""
        from trainer.adapt.choose import BLOCK, FOR_BLOCK, FOR_LAYER, LAYER  # noqa: PLC0415
        from trainer.adapt.student import answers  # noqa: PLC0415

        count = len(self._bench.inputs.labels)
        names = [name for name, least in ((LAYER, FOR_LAYER), (BLOCK, FOR_BLOCK)) if count >= least]

        def fit_of(name: str) -> Callable[[NDArray[np.bool_]], NDArray[np.float32]]:
            return lambda kept: answers(self._fit(name, kept), self._own)

        def loss_of(name: str) -> Callable[[], float]:
            return lambda: self._forgets(name)

        return [(name, fit_of(name), loss_of(name)) for name in names]

    def whole(self, name: str) -> nn.ModuleDict:
        """The parts refitted on all frames."""
        if name not in self._whole:
            self._whole[name] = self._fit(name, np.ones(len(self._bench.inputs.labels), np.bool_))
        return self._whole[name]

    def logits(self, name: str) -> NDArray[np.float32]:
        """Logits of the given frames by the parts refitted on all of them."""
        from trainer.adapt.student import answers  # noqa: PLC0415

        return answers(self.whole(name), self._own)

    def quantised(self, name: str) -> bytes:
        """The INT8 model of the student with its refitted parts."""
        from trainer.onnx_export import export_body  # noqa: PLC0415
        from trainer.quantise import quantise  # noqa: PLC0415
        from trainer.recipe import QuantiseSettings  # noqa: PLC0415

        height, width = self._bench.inputs.images.shape[1:3]
        body = export_body(self._student.with_parts(self.whole(name)).body, height, width)
        images = np.concatenate([np.asarray(self._bench.inputs.images), self._more.images])
        return bytes(quantise(body, images, QuantiseSettings(reduce_range=True)).SerializeToString())

    def _fit(self, name: str, kept: NDArray[np.bool_]) -> nn.ModuleDict:
        from trainer.adapt.choose import LAYER, balanced_weights  # noqa: PLC0415
        from trainer.adapt.student import refit_block, refit_layer  # noqa: PLC0415

        own = self._bench.inputs.labels[kept]
        replay = self._more.labels[: self._half]
        weights = np.concatenate([balanced_weights(own) * (1 - _REPLAY), balanced_weights(replay) * _REPLAY])
        views = self._own.take(np.flatnonzero(kept)).and_(self._replay)
        labels, temperature = np.concatenate([own, replay]), self._bench.shipped.temperature
        if name == LAYER:
            return refit_layer(self._student, views, labels, weights, temperature)
        return refit_block(self._student, views, labels, weights, temperature, seed=self._bench.seed)

    def _forgets(self, name: str) -> float:
        """Balanced accuracy lost on rendered frames that no refit learnt from."""
        from trainer.adapt.choose import balanced  # noqa: PLC0415
        from trainer.adapt.student import answers  # noqa: PLC0415

        truth = self._more.labels[self._half :] == self._bench.judging.index
        even = np.ones((1, len(truth)))
        before = self._student.logits(self._more.images[self._half :])
        plain = self._bench.shipped.model_copy(update={"threshold": 0.5})
        after = answers(self.whole(name), self._check)
        return float(balanced(truth, self._bench.said(before, self._bench.shipped), even)[0]) - float(
            balanced(truth, self._bench.said(after, plain), even)[0]
        )
