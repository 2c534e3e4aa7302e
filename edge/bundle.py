"""The model bundle: a zip whose manifest says everything that the device has to know about a model.

Opening one checks the hashes of all its files and, on the device's own runtime, the golden outputs: the same bytes give
the same answer here as where the model was made, or the bundle is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from numpy.typing import NDArray

    from edge.runtime import Runtime

SCHEMA_VERSION: Literal[1] = 1
MANIFEST, GOLDEN, CARD, SIGNATURE = "manifest.json", "golden.npz", "MODEL_CARD.md", "signature"

_MAX_MEMBER = 256 << 20  # bytes; a zip bomb is refused before it is unpacked
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal content makes an equal zip

Share = Annotated[float, Field(ge=0, le=1)]
RuntimeName = Literal["onnxruntime", "tensorrt", "ncnn"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Part):
    """The model's input: the resized RGB image itself, uint8 (1, height, width, 3).

    Attributes:
        interpolation: how it is shrunk: `area` averages whole pixels; `linear-area` goes linearly to twice the size and
            averages four pixels into one; `halves-linear` averages four into one as often as the result is not too
            small, and goes the rest linearly: the cheapest (docs/cost.md), and every pixel counts; `linear` alone
            aliases.
    """

    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    color: Literal["RGB"] = "RGB"
    height: int = Field(ge=16, le=2048)
    width: int = Field(ge=16, le=2048)
    fit: Literal["letterbox", "stretch"] = "letterbox"
    interpolation: Literal["area", "linear-area", "halves-linear", "linear"] = "area"


class MapSpec(_Part):
    """An output of maps and how they become regions.

    A map has one cell per `stride` x `stride` input pixels and one channel per label. Every label is a part of the
    finding (the folds, the glottis between them); they need not exclude each other.

    Attributes:
        output: name of the graph's output: logits float32 (1, height / stride, width / stride, labels).
        labels: of its channels, in their order.
        stride: divides the input's height and width.
        temperature: divides the logits before the sigmoid (`edge.regions.map_probabilities`).
        thresholds: per label, the probability from which on a cell shows it for sure: a region has one such cell or
            more.
        smallest_area: a region of less is none; as a share of what the model sees of the frame, padding left out.
        smoothing_s: time constant of the regions' exponential smoothing, seconds. By as much they lag behind what
            moves steadily, so it is short.
        support_floor: a frame whose score says the finding, but in whose maps no cell of any label is as probable as
            this, is `uncertain`, reason `unsupported`; None asks for no support.
    """

    output: str = "maps"
    labels: list[str] = Field(min_length=1)
    stride: int = Field(default=8, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]]
    smallest_area: Share = 0.004
    smoothing_s: float = Field(default=0.12, gt=0, le=1)
    support_floor: Share | None = None

    @model_validator(mode="after")
    def _complete(self) -> MapSpec:
        if len(set(self.labels)) != len(self.labels):
            msg = f"the labels {self.labels} name one twice"
            raise ValueError(msg)
        if set(self.thresholds) != set(self.labels):
            msg = f"thresholds are given for {sorted(self.thresholds)}, but the labels are {self.labels}"
            raise ValueError(msg)
        return self


class OutputSpec(_Part):
    """Names of the graph's outputs."""

    scores: str = "logits"
    maps: MapSpec | None = None


class DecisionSpec(_Part):
    """How logits become scores, and scores over time become a state.

    Attributes:
        temperature: divides the logits before the softmax (Guo et al. 2017).
        low: at or below this smoothed score of the finding the state is the other label.
        threshold: a state is left when the smoothed score crosses it.
        high: at or above this smoothed score the state is the finding; between low and high it is `uncertain` or what
            it was.
        smoothing_s: time constant of the exponential smoothing, seconds.
        dwell_s: shortest time between two changes of state, seconds.
        expire_s: without a frame for so long the state is `no_signal`, seconds.
        energy_floor: frames whose logits have less energy (`edge.decision.energy`) are unlike what the model was
            trained on, and `uncertain`; None judges every frame.
    """

    temperature: float = Field(gt=0)
    low: Share
    threshold: Share
    high: Share
    smoothing_s: float = Field(gt=0, le=10)
    dwell_s: float = Field(ge=0, le=10)
    expire_s: float = Field(gt=0, le=10)
    energy_floor: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> DecisionSpec:
        if not self.low <= self.threshold <= self.high:
            msg = f"low {self.low}, threshold {self.threshold}, high {self.high} must be in this order"
            raise ValueError(msg)
        return self


class Artefact(_Part):
    """One form of the model.

    Attributes:
        role: `smaller` is a second, cheaper model of the same labels and input, for when the latency budget cannot be
            kept otherwise. The manifest's decision holds for its logits too: the trainer scales them inside its graph.
        runtime: what the graph is made for. TensorRT wants another quantisation than the CPU does (symmetric, signed,
            no quantised bias) and no uint8 arithmetic at the input; a device builds its engine from it
            (`edge.runtime.tensorrt`), of an FP32 graph one of half precision. ncnn's form (`edge.runtime.ncnn`) is the
            INT8 graph's weights without rounding of activations. Opening a bundle runs ONNX Runtime's.
        minimum_runtime: the oldest version of that runtime.
        tolerance: largest difference of a calibrated score from the golden output that is still the same answer.
        map_tolerance: the same of a map's probability in any cell; only where the bundle has maps, and then needed.
    """

    name: str
    format: Literal["onnx", "ncnn"]
    precision: Literal["fp32", "int8"]
    role: Literal["primary", "smaller"] = "primary"
    runtime: RuntimeName = "onnxruntime"
    file: str
    minimum_runtime: str
    tolerance: Share
    map_tolerance: Share | None = None


class Metric(_Part):
    """A measured figure with its interval: `low` and `high` are the ends of the 95 % interval over groups."""

    split: str
    source: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    images: int = Field(ge=0)
    groups: int = Field(ge=0)


class Manifest(_Part):
    """`manifest.json` of a bundle."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+(-[0-9a-z.]+)?$")
    created: str
    labels: list[str] = Field(min_length=2)
    finding: str
    exclusive: bool
    input: InputSpec
    outputs: OutputSpec
    decision: DecisionSpec
    artefacts: list[Artefact] = Field(min_length=1)
    metrics: list[Metric]
    recipe_sha256: Sha256
    data_sha256: Sha256
    licence: str
    research_only: bool
    attributions: list[str]
    files: dict[str, Sha256]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.finding not in self.labels:
            msg = f"finding {self.finding!r} is not one of the labels {self.labels}"
            raise ValueError(msg)
        missing = {a.file for a in self.artefacts} | {GOLDEN, CARD}
        missing -= set(self.files)
        if missing:
            msg = f"files lists no hash for {', '.join(sorted(missing))}"
            raise ValueError(msg)
        if all(a.role != "primary" or a.runtime != "onnxruntime" for a in self.artefacts):
            msg = "no artefact is of the role primary for ONNX Runtime, which every device has"
            raise ValueError(msg)
        self._check_maps()
        return self

    def _check_maps(self) -> None:
        maps = self.outputs.maps
        if maps is None:
            return
        if self.input.height % maps.stride or self.input.width % maps.stride:
            msg = f"the maps' stride {maps.stride} does not divide the input, {self.input.height} x {self.input.width}"
            raise ValueError(msg)
        if maps.output == self.outputs.scores:
            msg = f"scores and maps are both said to be the output {maps.output!r}"
            raise ValueError(msg)
        untold = [a.name for a in self.artefacts if a.map_tolerance is None]
        if untold:
            msg = f"there are maps, but no map_tolerance for {', '.join(untold)}"
            raise ValueError(msg)

    @property
    def map_shape(self) -> tuple[int, int, int] | None:
        """Rows, columns and labels of the maps; None where there are none."""
        maps = self.outputs.maps
        if maps is None:
            return None
        return (self.input.height // maps.stride, self.input.width // maps.stride, len(maps.labels))


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, all in memory: nothing on disk can change under a running device.

    Attributes:
        sha256: hash of the manifest, which in turn holds every other file's: the identity of the model.
        signed: whether a trusted key signed the manifest.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    sha256: str
    path: Path
    signed: bool

    @classmethod
    def open(cls, path: Path, *, golden: bool = True, trusted_keys: Iterable[Ed25519PublicKey] = ()) -> Bundle:
        """Read a bundle and check it.

        Args:
            path: the zip file.
            golden: whether to run every artefact for ONNX Runtime here, and compare with the golden outputs.
            trusted_keys: where there are any, one of them must have signed the manifest.

        Raises:
            BundleError: it is missing, damaged, newer than this software, not signed by a trusted key, or computes
                something else here than where it was made.
        """
        members = _read_zip(path)
        if MANIFEST not in members:
            raise BundleError(f"{path} has no {MANIFEST}: it is not a Foldsight model bundle")
        raw = members[MANIFEST]
        manifest = _parse_manifest(path, raw)
        for name, digest in manifest.files.items():
            if name not in members:
                raise BundleError(f"{path}: {name} is missing from the bundle; fetch or build it again")
            if hashlib.sha256(members[name]).hexdigest() != digest:
                raise BundleError(f"{path}: {name} is damaged (its SHA-256 is not the manifest's); fetch it again")
        extra = set(members) - set(manifest.files) - {MANIFEST, SIGNATURE}
        if extra:
            raise BundleError(f"{path}: {', '.join(sorted(extra))} is not listed in the manifest; build it again")
        signed = _check_signature(path, raw, members.get(SIGNATURE), list(trusted_keys))
        bundle = cls(manifest, members, hashlib.sha256(raw).hexdigest(), path, signed)
        if golden:
            for artefact in manifest.artefacts:
                if artefact.runtime == "onnxruntime":  # an engine is checked once it is built
                    bundle.check_golden(artefact)
        return bundle

    def artefact(self, precision: str = "auto", runtime: RuntimeName = "onnxruntime") -> Artefact:
        """The primary model's artefact of a precision for a runtime; `auto` prefers INT8.

        Raises:
            BundleError: the bundle has none.
        """
        found = self._artefacts("primary", precision, runtime)
        if not found:
            have = ", ".join(a.precision for a in self._artefacts("primary", "auto", runtime))
            wanted = "" if precision == "auto" else f"{precision} "
            for_whom = {"onnxruntime": "", "tensorrt": " for TensorRT", "ncnn": " for ncnn"}[runtime]
            advice = (
                f", only {have}: set model.precision to one of these" if have else ": set model.runtime: onnxruntime"
            )
            raise BundleError(f"{self.path} has no {wanted}model{for_whom}{advice}")
        return found[0]

    def primary(self) -> list[Artefact]:
        """The primary model's artefacts for ONNX Runtime, INT8 first."""
        return self._artefacts("primary", "auto")

    def smaller(self, precision: str = "auto") -> Artefact | None:
        """The smaller model's artefact, of a precision where it has that; None where there is no smaller model."""
        return next(iter([*self._artefacts("smaller", precision), *self._artefacts("smaller", "auto")]), None)

    def _artefacts(self, role: str, precision: str, runtime: RuntimeName = "onnxruntime") -> list[Artefact]:
        order = {"int8": 0, "fp32": 1} if precision == "auto" else {precision: 0}
        found = (a for a in self.manifest.artefacts if a.role == role and a.runtime == runtime and a.precision in order)
        return sorted(found, key=lambda a: order[a.precision])

    def check_golden(
        self, artefact: Artefact, runtime: Runtime | None = None, *, least_tolerance: float = 0.0
    ) -> float:
        """Run an artefact on the golden inputs, and compare its scores and, where it has them, its maps.

        Args:
            artefact: whose golden outputs.
            runtime: what runs it; None opens ncnn for its form, else ONNX Runtime, which runs the graphs for TensorRT
                as well, slowly.
            least_tolerance: of scores and maps, where the artefact allows less.

        Returns:
            The largest difference of a calibrated score from the recorded one.

        Raises:
            BundleError: a difference is above the artefact's tolerance.
        """
        from edge.decision import calibrate  # noqa: PLC0415  decision takes its settings from here
        from edge.regions import map_probabilities  # noqa: PLC0415  as above
        from edge.runtime import open_runtime  # noqa: PLC0415  a manifest can be read without a runtime

        inputs, expected = self.golden(artefact)
        expected_maps = self.golden_maps(artefact)
        runtime = runtime or open_runtime(self, artefact)
        decision, spec = self.manifest.decision, self.manifest.outputs.maps
        scores, maps = [], []
        for image in inputs:
            logits = runtime.infer(image[None])
            scores.append(calibrate(logits, decision.temperature, exclusive=self.manifest.exclusive))
            if spec is not None and runtime.maps is not None:
                maps.append(map_probabilities(runtime.maps, spec.temperature))
        difference = self._same(
            artefact, "scores", np.stack(scores), expected, max(least_tolerance, artefact.tolerance)
        )
        if expected_maps is not None:
            allowed = max(least_tolerance, artefact.map_tolerance or 0.0)
            self._same(artefact, "maps", np.stack(maps), expected_maps, allowed)
        return difference

    def _same(
        self,
        artefact: Artefact,
        what: str,
        found: NDArray[np.float32],
        expected: NDArray[np.float32],
        tolerance: float,
    ) -> float:
        difference = float(np.abs(found - expected).max())
        if not difference <= tolerance:
            raise BundleError(
                f"{self.path}: {artefact.file} gives other {what} on this machine than where it was made "
                f"(difference {difference:.4f}, at most {tolerance} allowed); it is not used"
            )
        return difference

    def golden(self, artefact: Artefact) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Golden inputs uint8 (n, height, width, 3) RGB and an artefact's calibrated scores float32 (n, labels)."""
        spec, labels = self.manifest.input, self.manifest.labels
        inputs, expected = self._golden_arrays(artefact, "inputs", f"scores_{artefact.name}")
        if (
            inputs.dtype != np.uint8
            or inputs.shape[1:] != (spec.height, spec.width, 3)
            or not len(inputs)
            or expected.shape != (len(inputs), len(labels))
        ):
            raise BundleError(f"{self.path}: {GOLDEN} has arrays of the wrong shape for {artefact.name}")
        return inputs, expected

    def golden_maps(self, artefact: Artefact) -> NDArray[np.float32] | None:
        """An artefact's probabilities of the golden inputs, float32 (n, rows, columns, labels); None without maps."""
        shape = self.manifest.map_shape
        if shape is None:
            return None
        inputs, maps = self._golden_arrays(artefact, "inputs", f"maps_{artefact.name}")
        if maps.shape != (len(inputs), *shape):
            raise BundleError(
                f"{self.path}: {GOLDEN} has maps of the shape {maps.shape} for {artefact.name}, "
                f"but the manifest says {(len(inputs), *shape)}; build it again"
            )
        return np.asarray(maps, np.float32)

    def _golden_arrays(self, artefact: Artefact, *names: str) -> list[NDArray[Any]]:
        try:
            with np.load(io.BytesIO(self.files[GOLDEN]), allow_pickle=False) as arrays:
                return [arrays[name] for name in names]
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{self.path}: {GOLDEN} holds no golden {names[-1].partition('_')[0]} for {artefact.name}"
            ) from error


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle atomically.

    Args:
        path: where to; replaced in one step, and only once everything is written.
        manifest: everything but the hashes: its `files` is filled in here.
        files: name and content of every file but the manifest.

    Returns:
        The manifest as written.
    """
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    full = Manifest.model_validate({**manifest.model_dump(), "files": hashes})
    members = {MANIFEST: (full.model_dump_json(indent=2) + "\n").encode(), **files}
    _write_zip(path, members)
    return full


def sign_bundle(path: Path, key: Ed25519PrivateKey) -> Bundle:
    """Write the signature of a bundle's manifest into it, in one step; an earlier one is replaced.

    Args:
        path: the bundle.
        key: the private key; those who trust its public half will open the bundle.

    Raises:
        BundleError: it is missing or damaged.
        OSError: it cannot be written.
    """
    bundle = Bundle.open(path, golden=False)
    _write_zip(path, {**bundle.files, SIGNATURE: key.sign(bundle.files[MANIFEST])})
    return Bundle.open(path, golden=False, trusted_keys=[key.public_key()])


def _write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                for name, content in members.items():
                    entry = zipfile.ZipInfo(name, _EPOCH)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_zip(path: Path) -> dict[str, bytes]:
    if not path.is_file():
        raise BundleError(f"{path} is not there: give the path of a model bundle (.zip)")
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.file_size > _MAX_MEMBER:
                    raise BundleError(f"{path}: {info.filename} would unpack to {info.file_size >> 20} MiB; refused")
            return {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise BundleError(f"{path} is damaged or no zip file ({error}); fetch it again") from error
    except Exception as error:  # zlib.error and its like, from a flipped byte
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path} is damaged ({error}); fetch it again") from error


def _parse_manifest(path: Path, raw: bytes) -> Manifest:
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise BundleError(f"{path}: {MANIFEST} is not JSON ({error}); fetch the bundle again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has manifest schema {version}, this Foldsight reads up to {SCHEMA_VERSION}: update it first"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors())
        raise BundleError(f"{path}: {MANIFEST} is not valid ({faults})") from error


def _check_signature(path: Path, manifest: bytes, signature: bytes | None, keys: list[Ed25519PublicKey]) -> bool:
    if not keys:
        return False
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  50 ms that an unsigned set-up need not pay

    if signature is None:
        raise BundleError(f"{path} is not signed, and only signed bundles are trusted here")
    for key in keys:
        try:
            key.verify(signature, manifest)
        except InvalidSignature:
            continue
        return True
    raise BundleError(f"{path} is not signed by a key that is trusted here")
