"""Everything about TensorRT up to the driver's edge: there is no GPU here.

An in-process driver runs the graphs on the CPU, and is as particular as TensorRT about which engine it loads.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import tiny_files, tiny_manifest

from edge.bundle import Artefact, Bundle, write_bundle
from edge.errors import BundleError, EngineError, FoldsightError
from edge.runtime import OnnxRuntime, nvidia, open_runtime
from edge.runtime.tensorrt import EngineCache, Key, Relay, Tensor, TensorRtRuntime, open_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge.runtime.tensorrt import Engine

KEY = Key("0" * 64, "10.3.0", "Orin", "8.7", "int8")


class CpuEngine:
    """A graph on the CPU, between buffers of its own."""

    note = "on the CPU"

    def __init__(self, model: bytes, shift: float = 0.0) -> None:
        self._runtime, self._shift = OnnxRuntime(model), shift
        self.tensors = {
            "image": Tensor(self._runtime._input.shape, "uint8", is_input=True),
            "logits": Tensor(self._runtime._logits.shape, "float32", is_input=False),
        }
        self._host = {name: np.zeros(t.shape, t.dtype) for name, t in self.tensors.items()}
        self.broken = False

    def buffer(self, name: str) -> np.ndarray:
        return self._host[name]

    def run(self) -> None:
        if self.broken:
            raise EngineError("the GPU failed: it has fallen off the bus")
        self._host["logits"][0] = self._runtime.infer(self._host["image"])
        self._host["logits"][0, 0] += self._shift


class CpuDriver:
    """Builds and loads as TensorRT does, for a GPU of its own."""

    def __init__(self, version: str = "10.3.0", gpu: str = "Orin", capability: str = "8.7", shift: float = 0.0) -> None:
        self.version, self.gpu, self.capability, self.shift = version, gpu, capability, shift
        self.builds = 0
        self.engine: CpuEngine | None = None

    def _stamp(self) -> bytes:
        return f"{self.version} {self.gpu} {self.capability}\n".encode()

    def build(self, model: bytes, precision: str, tell: Callable[[str], None]) -> bytes:
        self.builds += 1
        tell(f"building the engine: {precision}, 50 %")
        return self._stamp() + model

    def load(self, plan: bytes) -> Engine:
        if not plan.startswith(self._stamp()):
            raise EngineError("the engine was made by another TensorRT or for another GPU")
        self.engine = CpuEngine(plan[len(self._stamp()) :], self.shift)
        return self.engine


def two_runtimes(path: Path, **changes: Any) -> Bundle:
    """The tiny bundle with the same graph for TensorRT, said to be INT8."""
    cpu = tiny_manifest().artefacts[0]
    said = {"name": "fp32-trt", "runtime": "tensorrt", "precision": "int8", "minimum_runtime": "8.6", **changes}
    gpu = Artefact.model_validate({**cpu.model_dump(), **said})
    files = tiny_files()

    with np.load(io.BytesIO(files["golden.npz"])) as arrays:
        golden = io.BytesIO()
        np.savez(golden, **arrays, **{"scores_fp32-trt": arrays["scores_fp32"]})
    write_bundle(path, tiny_manifest(artefacts=[cpu, gpu]), {**files, "golden.npz": golden.getvalue()})
    return Bundle.open(path)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return two_runtimes(tmp_path / "b.zip")


def told(bundle: Bundle, driver: CpuDriver, folder: Path, **more: Any) -> tuple[TensorRtRuntime, list[str]]:
    lines: list[str] = []
    return open_engine(bundle, driver, folder, tell=lines.append, **more), lines


def test_an_engine_is_built_once_says_how_far_it_is_and_answers_as_the_cpu_does(bundle: Bundle, tmp_path: Path) -> None:
    driver = CpuDriver()
    runtime, lines = told(bundle, driver, tmp_path / "e")
    assert "building a TensorRT 10.3.0 engine of fp32.onnx, int8, for Orin" in lines[0]
    assert "50 %" in lines[1]
    again, lines = told(bundle, driver, tmp_path / "e")
    assert (driver.builds, lines) == (1, [])
    assert again.description == "TensorRT 10.3.0, Orin, int8, on the CPU"
    reference = open_runtime(bundle, bundle.artefact())
    for image in bundle.golden(bundle.artefact())[0]:
        assert np.array_equal(again.infer(image[None]), reference.infer(image[None]))
    assert np.array_equal(again.infer(image[None]), runtime.infer(image[None]))


@pytest.mark.parametrize(
    "other",
    [
        {"version": "10.4.0"},
        {"gpu": "Xavier"},
        {"capability": "7.2"},
    ],
)
def test_an_engine_of_another_gpu_or_version_is_not_used(bundle: Bundle, tmp_path: Path, other: dict[str, str]) -> None:
    old, new = CpuDriver(), CpuDriver(**other)
    told(bundle, old, tmp_path / "e")
    told(bundle, new, tmp_path / "e")
    assert new.builds == 1
    model = bundle.files["fp32.onnx"]
    cache = EngineCache(tmp_path / "e")
    # Copied from another device under the right name, it is known by what it says of itself.
    key, wrong = Key.of(model, new, "int8"), Key.of(model, old, "int8")
    cache.path(key).write_bytes(cache.path(wrong).read_bytes())
    _, lines = told(bundle, new, tmp_path / "e")
    assert "is an engine of TensorRT 10.3.0 for Orin (8.7), int8, not of" in lines[0]
    assert new.builds == 2


def test_a_key_has_every_part_in_its_name() -> None:
    others = [replace(KEY, **{name: "x"}) for name in KEY.__slots__]
    assert len({KEY.name, *(key.name for key in others)}) == 6


def test_a_half_written_engine_is_found_at_any_length_and_built_anew(bundle: Bundle, tmp_path: Path) -> None:
    driver, cache = CpuDriver(), EngineCache(tmp_path / "e")
    told(bundle, driver, cache.folder)
    path = cache.path(Key.of(bundle.files["fp32.onnx"], driver, "int8"))
    whole = path.read_bytes()
    for length in [*range(0, 400, 23), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        plan, why = cache.read(Key.of(bundle.files["fp32.onnx"], driver, "int8"))
        assert plan is None
        assert why == f"{path} is damaged or only half there"
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    path.write_bytes(flipped)
    _, lines = told(bundle, driver, cache.folder)
    assert lines[0] == f"{path} is damaged or only half there; it is built anew"
    assert path.read_bytes() == whole


def test_a_cut_while_writing_leaves_the_old_engine_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EngineCache(tmp_path / "e")
    cache.write(KEY, b"first")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FoldsightError, match="No space left"):
        cache.write(KEY, b"second")
    monkeypatch.undo()
    assert cache.read(KEY) == (b"first", "")
    for number in range(8):
        cache.write(replace(KEY, tensorrt=str(number)), b"plan")
    assert len(list(cache.folder.iterdir())) == 4
    assert cache.read(replace(KEY, tensorrt="7")) == (b"plan", "")


def test_a_folder_that_cannot_be_written_is_said_and_the_engine_serves(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "e").write_text("no folder")
    runtime, lines = told(bundle, CpuDriver(), tmp_path / "e" / "f")
    assert "cannot be kept" in lines[-1]
    runtime.infer(np.zeros((1, 64, 64, 3), np.uint8))


def test_an_engine_that_computes_something_else_never_serves(bundle: Bundle, tmp_path: Path) -> None:
    wrong = CpuDriver(shift=1.0)
    with pytest.raises(BundleError, match=r"fp32\.onnx gives other scores on this machine"):
        told(bundle, wrong, tmp_path / "e")
    assert not list((tmp_path / "e").glob("*"))
    right = CpuDriver()
    told(bundle, right, tmp_path / "e")
    right.shift = 1.0  # the cached one is right no more: it is built anew, and is wrong again
    with pytest.raises(BundleError, match="gives other scores"):
        told(bundle, right, tmp_path / "e")
    assert right.builds == 2


def test_the_wanted_precision_must_be_in_the_bundle(bundle: Bundle, tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"engine of fp16 cannot be built: .* has no fp32 model for TensorRT, only int8"
    ):
        told(bundle, CpuDriver(), tmp_path / "e", precision="fp16")
    with pytest.raises(BundleError, match=r"has no model for TensorRT: set model\.runtime: onnxruntime"):
        told(Bundle.open(tiny_bundle), CpuDriver(), tmp_path / "e")
    wide = two_runtimes(tmp_path / "w.zip", precision="fp32")
    runtime, _ = told(wide, CpuDriver(), tmp_path / "e")
    assert "fp16" in runtime.description
    with pytest.raises(BundleError, match="engine of int8 cannot be built"):
        told(wide, CpuDriver(), tmp_path / "e", precision="int8")
    # Half precision may differ by more than the FP32 that was recorded allows, and not by more than that.
    told(wide, CpuDriver(shift=0.02), tmp_path / "f")
    with pytest.raises(BundleError, match=r"at most 0\.02 allowed"):
        told(wide, CpuDriver(shift=0.5), tmp_path / "g")


def test_an_older_tensorrt_than_the_bundle_needs(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"needs TensorRT 8\.6 or newer, here is 8\.5\.2: install a newer one"):
        told(bundle, CpuDriver(version="8.5.2"), tmp_path / "e")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"image": Tensor((1, 32, 32, 3), "uint8", True)},
            r"wants image uint8 \[1, 32, 32, 3\], but the manifest says",
        ),
        ({"image": Tensor((1, 64, 64, 3), "float32", True)}, r"wants image float32"),
        ({"more": Tensor((1,), "uint8", True)}, r"wants image uint8 \[1, 64, 64, 3\], more uint8 \[1\]"),
        ({"logits": Tensor((1, 3), "float32", False)}, r"output 'logits' is float32 \[1, 3\], not float32 \[1, 2\]"),
        ({"logits": None}, "output 'logits' is not there"),
    ],
)
def test_an_engine_of_another_shape_is_refused(bundle: Bundle, tensors: dict[str, Tensor | None], words: str) -> None:
    engine = CpuEngine(bundle.files["fp32.onnx"])
    engine.tensors = {name: t for name, t in {**engine.tensors, **tensors}.items() if t is not None}
    with pytest.raises(BundleError, match=words):
        TensorRtRuntime(engine, bundle, "test")


def test_when_the_gpu_fails_the_cpu_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    driver, said = CpuDriver(), []
    cpu = open_runtime(bundle, bundle.artefact())
    relay = Relay(cpu, said.append)
    image = bundle.golden(bundle.artefact())[0][:1]
    expected = cpu.infer(image).copy()
    assert np.array_equal(relay.infer(image), expected)
    runtime, _ = told(bundle, driver, tmp_path / "e")
    relay.change(runtime)
    assert np.array_equal(relay.infer(image), expected)
    assert relay.description.startswith("TensorRT")
    assert driver.engine is not None
    driver.engine.broken = True
    assert np.array_equal(relay.infer(image), expected)
    assert said == [f"the GPU failed: it has fallen off the bus; {cpu.description} goes on"]
    assert relay.description == cpu.description


def test_it_takes_over_between_two_frames(bundle: Bundle, tmp_path: Path) -> None:
    relay = Relay(open_runtime(bundle, bundle.artefact()))
    images, _ = bundle.golden(bundle.artefact())
    expected = [relay.infer(image[None]).copy() for image in images]
    runtime, _ = told(bundle, CpuDriver(), tmp_path / "e")
    thread = threading.Thread(target=lambda: relay.change(runtime))
    thread.start()
    for turn in range(200):
        assert np.array_equal(relay.infer(images[turn % 3][None]), expected[turn % 3])
    thread.join()
    assert relay.now is runtime


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"TensorRT is not installed here .*JetPack.*set model\.runtime: onnxruntime"):
        nvidia.connect()


def test_without_pycuda_or_its_driver_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = sys.modules
    monkeypatch.setitem(modules, "tensorrt", json)
    monkeypatch.setitem(modules, "pycuda", None)
    with pytest.raises(EngineError, match="pycuda cannot be used here"):
        nvidia.connect()


def test_the_cache_says_what_it_holds(tmp_path: Path) -> None:
    EngineCache(tmp_path).write(KEY, b"plan")
    head = EngineCache(tmp_path).path(KEY).read_bytes().splitlines()[1]
    assert json.loads(head)["key"]["gpu"] == "Orin"
