from __future__ import annotations

import io
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import tiny_files, tiny_manifest
from test_tensorrt import CpuDriver, two_runtimes

from edge.bench.artefacts import measure_artefacts
from edge.bench.report import _artefacts
from edge.bundle import Bundle, write_bundle
from edge.choice import MEMORY, Memory, Timed, best, choose, measure, open_analyser, processor, start_engine
from edge.config import Config
from edge.errors import BundleError, EngineError
from edge.runtime.tensorrt import Relay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def settings(folder: Path, **model: Any) -> Config:
    return Config.model_validate({"device": "test", "state_dir": folder, "model": model})


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle in two precisions: they are one graph."""
    path = tmp_path_factory.mktemp("bundle") / "both.zip"
    wide = tiny_manifest().artefacts[0]
    narrow = wide.model_copy(update={"name": "int8", "precision": "int8"})
    files = tiny_files()
    with np.load(io.BytesIO(files["golden.npz"])) as arrays:
        golden = io.BytesIO()
        np.savez(golden, **arrays, scores_int8=arrays["scores_fp32"])
    write_bundle(path, tiny_manifest(artefacts=[wide, narrow]), {**files, "golden.npz": golden.getvalue()})
    return path


class Paced:
    """A runtime that takes its time."""

    description, maps = "paced", None

    def __init__(self, seconds: float) -> None:
        self.seconds, self.runs = seconds, 0

    def infer(self, image: np.ndarray) -> np.ndarray:
        self.runs += 1
        time.sleep(self.seconds)
        return image.reshape(-1)[:2].astype(np.float32)


def timed(name: str, p50: float, precision: str = "fp32") -> Timed:
    return Timed(name=name, precision=precision, runtime="", p50_ms=p50, p95_ms=p50)


def test_candidates_run_in_turn_and_the_quickest_comes_first() -> None:
    slow, quick = Paced(0.02), Paced(0.001)
    found = measure([("slow", "fp32", slow), ("quick", "int8", quick)], np.zeros((2, 4, 4, 3), np.uint8), 0.2)
    assert [entry.name for entry in found] == ["quick", "slow"]
    assert slow.runs == quick.runs >= 8
    assert found[1].p50_ms >= 20


def test_int8_is_taken_where_it_is_about_as_quick() -> None:
    assert best([timed("wide", 1.0), timed("narrow", 1.04, "int8")]).name == "narrow"
    assert best([timed("wide", 1.0), timed("narrow", 1.2, "int8")]).name == "wide"
    assert best([timed("wide", 1.0), timed("narrow", 0.7, "int8")]).name == "narrow"


def rigged(monkeypatch: pytest.MonkeyPatch, answers: dict[str, float]) -> list[list[str]]:
    """Have measuring say what is wanted; returns what was measured."""
    calls: list[list[str]] = []

    def said(candidates: Any, inputs: Any, seconds: float = 1) -> list[Timed]:
        del seconds
        assert len(inputs)
        calls.append([name for name, _, _ in candidates])
        return sorted((timed(n, answers[n], p) for n, p, _ in candidates), key=lambda entry: entry.p50_ms)

    monkeypatch.setattr("edge.choice.measure", said)
    monkeypatch.setattr("edge.bench.artefacts.measure", said)
    return calls


def test_the_quickest_is_run_and_remembered_for_this_bundle_runtime_and_processor(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = rigged(monkeypatch, {"fp32": 1.0, "int8": 3.0})
    bundle, config = Bundle.open(both), settings(tmp_path)
    first, second = choose(config, bundle), choose(config, bundle)
    assert (first.artefact.name, second.artefact.name, len(calls)) == ("fp32", "fp32", 1)
    assert "takes fp32 1.00 ms, int8 3.00 ms here (measured now)" in first.reason
    assert second.reason.endswith("(remembered)")
    assert open_analyser(config, bundle).artefact.name == "fp32"
    monkeypatch.setattr("edge.choice.processor", lambda: "another")
    choose(config, bundle)
    monkeypatch.setattr("edge.choice.onnx_version", lambda: "99.0")
    choose(config, bundle)
    choose(settings(tmp_path, threads=2), bundle)
    assert len(calls) == 4
    assert choose(config, bundle).remembered
    assert len(calls) == 4


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"entries": [{}]}', b"\xff\xfe", b'{"entries": 3}'])
def test_a_damaged_memory_is_measured_again_and_written_anew(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    calls = rigged(monkeypatch, {"fp32": 3.0, "int8": 1.0})
    bundle, config = Bundle.open(both), settings(tmp_path)
    choose(config, bundle)
    whole = (tmp_path / MEMORY).read_bytes()
    for content in (damage, whole[: len(whole) // 2]):
        (tmp_path / MEMORY).write_bytes(content)
        calls.clear()
        assert choose(config, bundle).artefact.name == "int8"
        assert len(calls) == 1
        assert choose(config, bundle).remembered
    assert "is measured again" in caplog.text


def test_a_state_directory_that_cannot_be_written_does_not_stop_the_start(
    both: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    begin = time.monotonic()
    found = choose(settings(tmp_path / "file" / "state"), Bundle.open(both))
    assert {entry.name for entry in found.timed} == {"fp32", "int8"}
    assert time.monotonic() - begin < 60  # really measured; short, but this machine may be busy
    assert "measured again at the next start" in caplog.text


def test_nothing_is_measured_where_there_is_nothing_to_choose(
    both: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = rigged(monkeypatch, {})
    bundle = Bundle.open(both)
    assert choose(settings(tmp_path, precision="fp32"), bundle).reason == "fp32, as model.precision says"
    assert choose(settings(tmp_path, runtime="onnxruntime"), bundle).artefact.name == "int8"
    assert "only model" in choose(settings(tmp_path), Bundle.open(tiny_bundle)).reason
    with pytest.raises(BundleError, match="has no int8 model, only fp32"):
        choose(settings(tmp_path, precision="int8"), Bundle.open(tiny_bundle))
    assert not calls
    assert not list(tmp_path.iterdir())


def test_the_memory_holds_the_last_few(tmp_path: Path) -> None:
    memory = Memory(tmp_path / MEMORY)
    for number in range(20):
        memory.keep({"bundle": str(number)}, [timed("a", number)])
    memory.keep({"bundle": "19"}, [timed("b", 1)])
    assert memory.recall({"bundle": "19"}) == [timed("b", 1)]
    assert memory.recall({"bundle": "12"}) == [timed("a", 12)]
    assert memory.recall({"bundle": "11"}) is None


def test_a_processor_has_a_name_on_a_pi_and_here(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    core = "processor\t: {}\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
    cpuinfo.write_text("".join(core.format(n) for n in range(4)) + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    assert processor(cpuinfo).endswith("CPU implementer 0x41, CPU part 0xd0b, Model Raspberry Pi 5 Model B Rev 1.0")
    assert processor(tmp_path / "none")
    assert processor()


class Ear:
    """Keeps what it is told of an engine."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.progress: list[str] = []
        self.changes = 0

    def __call__(self, sentence: str, *, fault: bool, changed: bool) -> None:
        (self.faults if fault else self.progress).append(sentence)
        self.changes += changed


def raised(config: Config, bundle: Bundle, connect: Callable[[], Any]) -> tuple[Any, Ear]:
    analyser, ear = open_analyser(config, bundle), Ear()
    thread = start_engine(config, analyser, ear, connect)
    assert thread is not None
    thread.join(60)
    return analyser, ear


def test_an_engine_takes_over_while_the_model_runs(tmp_path: Path) -> None:
    bundle, config = two_runtimes(tmp_path / "b.zip"), settings(tmp_path / "s", runtime="tensorrt")
    analyser, ear = raised(config, bundle, CpuDriver)
    assert (ear.faults, ear.changes) == ([], 1)
    assert ear.progress[-1] == "TensorRT 10.3.0, Orin, int8, on the CPU serves"
    assert analyser.runtime.description.startswith("TensorRT")
    image = np.zeros((64, 64, 3), np.uint8)
    assert analyser.analyse(image).scores == pytest.approx([0.5, 0.5])
    analyser.runtime.now._engine.broken = True
    analyser.analyse(image)
    assert "the GPU failed" in ear.faults[0]
    assert ear.changes == 2


@pytest.mark.parametrize(
    ("connect", "words"),
    [
        (lambda: (_ for _ in ()).throw(EngineError("there is no NVIDIA GPU here")), "there is no NVIDIA GPU here"),
        (lambda: CpuDriver(shift=1.0), "gives other scores on this machine"),
        (lambda: CpuDriver(version="7.0"), "needs TensorRT 8.6 or newer"),
        (lambda: None, "AttributeError"),
    ],
)
def test_whatever_is_wrong_with_the_engine_the_last_good_model_goes_on(
    tmp_path: Path, connect: Callable[[], Any], words: str
) -> None:
    bundle, config = two_runtimes(tmp_path / "b.zip"), settings(tmp_path / "s", runtime="tensorrt")
    analyser, ear = raised(config, bundle, connect)
    assert words in ear.faults[0]
    assert ear.faults[0].endswith(f"{analyser.runtime.first.description} goes on")
    assert len(ear.faults) == 1
    assert not ear.changes
    assert analyser.analyse(np.zeros((64, 64, 3), np.uint8)).scores == pytest.approx([0.5, 0.5])


def test_a_bundle_without_a_graph_for_it_goes_on_too(tiny_bundle: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, runtime="tensorrt", engine="fp16")
    _, ear = raised(config, Bundle.open(tiny_bundle), CpuDriver)
    assert "engine of fp16 cannot be built" in ear.faults[0]


@pytest.mark.parametrize("quicker", [True, False])
def test_auto_lets_the_engine_serve_only_where_it_is_quicker_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quicker: bool
) -> None:
    monkeypatch.setattr("edge.choice._has_tensorrt", lambda: True)
    calls = rigged(monkeypatch, {"fp32": 1.0, "fp32-trt engine": 0.3 if quicker else 2.0})
    bundle, config, drivers = two_runtimes(tmp_path / "b.zip"), settings(tmp_path / "s"), [CpuDriver(), CpuDriver()]
    for turn, driver in enumerate(drivers):
        analyser, ear = raised(config, bundle, lambda driver=driver: driver)  # type: ignore[misc]
        assert analyser.runtime.description.startswith("TensorRT") == quicker
        assert ear.changes == quicker
        assert ("remembered" in ear.progress[-1]) == (turn == 1 and not quicker)
    assert calls == [["fp32-trt engine", "fp32"]]
    assert [driver.builds for driver in drivers] == [1, 0]


def test_the_benchmark_measures_every_form_and_says_which_to_use(
    both: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure_artefacts(settings(tmp_path), Bundle.open(both))
    assert {entry["name"] for entry in found["timed"]} == {"fp32", "int8"}
    assert found["use"] in ("fp32", "int8")
    assert found["engine"] == ""
    assert "only form" in measure_artefacts(settings(tmp_path), Bundle.open(tiny_bundle))["why"]
    rigged(monkeypatch, {"fp32": 3.0, "int8": 1.5, "fp32-trt engine": 0.5})
    said = measure_artefacts(settings(tmp_path), Bundle.open(both))
    assert (said["use"], said["why"]) == ("int8", "2.0 times as quick as fp32")
    bundle = two_runtimes(tmp_path / "b.zip")
    said = measure_artefacts(settings(tmp_path), bundle, CpuDriver)
    assert said["use"] == "fp32-trt engine"
    text = "\n".join(_artefacts({"artefacts": said}))
    assert "use fp32-trt engine: 6.0 times as quick as fp32" in text

    def none() -> CpuDriver:
        raise EngineError("there is no NVIDIA GPU here")

    assert measure_artefacts(settings(tmp_path), bundle, none)["engine"] == "there is no NVIDIA GPU here"
    assert measure_artefacts(settings(tmp_path, runtime="onnxruntime"), bundle, none)["engine"] == ""


def test_auto_leaves_tensorrt_alone_where_it_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bundle, config = two_runtimes(tmp_path / "b.zip"), settings(tmp_path / "s")
    analyser = open_analyser(config, bundle)
    assert not isinstance(analyser.runtime, Relay)
    assert start_engine(config, analyser, Ear()) is None
    assert "model: fp32: the bundle's only model for ONNX Runtime" in caplog.text
