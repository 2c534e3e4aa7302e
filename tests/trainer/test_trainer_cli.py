"""The command line: fast, clear about what is wrong, and a whole recipe end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.analysis import Analyser
from edge.bundle import Bundle
from trainer.cli import main
from trainer.ledger import LEDGER

ROOT = Path(__file__).parents[2]
RECIPE = "with-its-control.yaml"  # the shipped one, and the student from scratch
pytestmark = pytest.mark.timeout(900)  # the whole run takes 20 s on an idle machine


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, trainer.cli as c\ntry:\n c.main(['--help'])\nfinally:\n print('torch' in sys.modules)"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().endswith("False")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "nothing", "--data", "."], 2, "no recipe there"),
        (["run", "vocal-folds"], 2, "give their folder with --data"),
        (["run", "vocal-folds", "--data", "/nowhere", "--out", "{tmp}"], 1, "/nowhere: no such folder"),
        (["run", "vocal-folds", "--data", ".", "--threads", "-1"], 2, "--threads -1 is negative"),
        (["evaluate", "{tmp}", "--data", "."], 2, "is no run's folder"),
        (["evaluate", "none.zip", "--data", "."], 1, "none.zip is not there"),
        (["evaluate", "none.zip", "--data", ".", "--split", "dev"], 2, "--split dev"),
        (["data", "import", "--data", "/nowhere", "--out", "x.csv"], 2, "/nowhere: no such folder"),
        (["recipe", "show", "nothing"], 2, "no recipe there"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: Any, code: Any, said: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([a.replace("{tmp}", str(tmp_path)) for a in arguments]) == code
    error = capsys.readouterr().err.strip()
    assert said in error
    assert error.startswith("foldsight-trainer: ")
    assert "\n" not in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no recipe there"):
        main(["--debug", "recipe", "show", "nothing"])


def test_recipe_show_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "vocal-folds", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["distil"]["temperature"] > 0
    assert main(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run on rendered images; torch is needed for it."""
    for module in ("torch", "timm", "lightning", "onnxscript"):
        if find_spec(module) is None:  # not imported here: torchvision may need help first
            pytest.skip(f"{module} is not installed")
    out = tmp_path_factory.mktemp("run")
    recipe = out / RECIPE
    shipped = (ROOT / "trainer" / "recipes" / "vocal-folds.yaml").read_text(encoding="utf-8")
    assert "scratch: false" in shipped
    recipe.write_text(shipped.replace("scratch: false", "scratch: true"), encoding="utf-8")
    began = time.monotonic()
    assert main(["run", str(recipe), "--smoke", "--out", str(out), "--threads", "1", "--json"]) == 0
    return out, time.monotonic() - began


def test_a_whole_recipe_takes_about_a_minute(smoke: Any) -> None:
    assert smoke[1] < 120  # usually 20 s; shared machines are slow at times


def test_its_bundle_opens_on_the_device_and_judges(smoke: Any) -> None:
    (path,) = smoke[0].glob("bundle-*/vocal-folds-smoke-0.0.0.zip")
    bundle = Bundle.open(path)
    forms = [(a.runtime, a.precision, a.role) for a in bundle.manifest.artefacts]
    assert forms == [
        ("onnxruntime", "int8", "primary"),
        ("ncnn", "fp32", "primary"),
        ("onnxruntime", "int8", "smaller"),
    ]
    maps = bundle.manifest.outputs.maps
    assert maps is not None
    assert maps.labels == ["folds", "glottis"]
    assert bundle.golden_maps(bundle.manifest.artefacts[0]) is not None
    assert path.stat().st_size <= 1_500_000
    analysis = Analyser(bundle).analyse(np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8))
    assert analysis.scores.sum() == pytest.approx(1, abs=1e-5)
    card = bundle.files["MODEL_CARD.md"].decode()
    assert "Not a medical device" in card
    assert "student, distilled, INT8" in card
    assert {m.split for m in bundle.manifest.metrics} == {"val", "test"}
    (wide,) = smoke[0].glob("bundle-*/vocal-folds-smoke-0.0.0-fp32.zip")
    assert [a.precision for a in Bundle.open(wide).manifest.artefacts] == ["fp32"]


def test_a_flipped_byte_in_the_model_is_seen(smoke: Any, tmp_path: Path) -> None:
    (path,) = smoke[0].glob("bundle-*/vocal-folds-smoke-0.0.0.zip")
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(broken, "w") as new:
        for name in old.namelist():
            content = bytearray(old.read(name))
            if name.endswith(".onnx"):
                content[len(content) // 2] ^= 1
            new.writestr(name, bytes(content))
    with pytest.raises(Exception, match="damaged"):
        Bundle.open(broken)


def test_a_second_run_repeats_nothing(smoke: Any) -> None:
    before = {p: p.stat().st_mtime_ns for p in smoke[0].rglob("*") if p.is_file() and p.name != "recipe.json"}
    began = time.monotonic()
    assert main(["run", str(smoke[0] / RECIPE), "--smoke", "--out", str(smoke[0]), "--threads", "1", "--json"]) == 0
    assert time.monotonic() - began < 10
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_evaluate_prints_the_table_of_a_run(smoke: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "tables.md"
    arguments = ["evaluate", str(smoke[0]), "--data", str(smoke[0] / "images"), "--repeats", "50"]
    assert main([*arguments, "--markdown", str(target)]) == 0
    out = capsys.readouterr().out
    for row in ("teacher", "student, from scratch", "student, distilled", "student, distilled, INT8"):
        assert row in out
    assert "INT8 - FP32 accuracy" in out
    assert "| student, distilled, INT8 |" in target.read_text(encoding="utf-8")


def test_the_report_of_a_run_measures_what_is_missing_and_reads_no_test_split(
    smoke: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, root = smoke[0], smoke[0] / "images"
    before = (out / LEDGER).read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    arguments = ["report", str(out), "--data", str(root), "--out", str(page), "--images", "3", "--repeats", "20"]
    assert main([*arguments, "--graphs", str(tmp_path)]) == 0
    assert "student, distilled, INT8" in capsys.readouterr().out
    evidence = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert set(evidence["splits"]) == {"val", "test"}
    assert set(evidence["robustness"]["rows"]) == {"teacher", "distilled", "int8"}
    assert len(evidence["robustness"]["conditions"]) == 41
    assert set(evidence["gradcam"]["rows"]) == {"teacher", "scratch", "distilled"}
    assert evidence["gradcam"]["panels"]
    stored = json.loads((next(out.glob("evaluate-*")) / "report.json").read_text(encoding="utf-8"))
    for split, part in evidence["splits"].items():
        for row, told in part["rows"].items():
            expected = stored["splits"][split]["rows"][row]["overall"]["accuracy"]["value"]
            assert told["figures"]["accuracy"]["value"] == pytest.approx(expected)
    assert (out / LEDGER).read_text(encoding="utf-8") == before
    assert all(reading["models"] for reading in evidence["readings"])
    assert sorted(p.stem for p in tmp_path.glob("*.onnx")) == sorted(evidence["splits"]["val"]["rows"])
    text = page.read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in text
    assert str(out) not in text


def test_gradcam_prints_a_table_and_draws_sheets(
    smoke: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gradcam", str(smoke[0]), "--data", str(smoke[0] / "images"), "--rows", "scratch,distilled", "--json"]
    assert main([*arguments, "--sheets", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["rows"]) == {"scratch", "distilled"}
    assert found["sheets"]
    assert all(Path(sheet).stat().st_size > 2000 for sheet in found["sheets"])
    assert main(["gradcam", str(smoke[0]), "--data", str(smoke[0] / "images"), "--rows", "int8"]) == 2
    assert "trained networks of this run are" in capsys.readouterr().err


def test_evaluate_of_a_bundle_agrees_with_its_manifest(smoke: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = smoke[0].glob("bundle-*/vocal-folds-smoke-0.0.0.zip")
    (manifest,) = smoke[0].glob("data-*/manifest.csv")
    arguments = ["evaluate", str(path), "--data", str(smoke[0] / "images"), "--manifest", str(manifest)]
    assert main([*arguments, "--repeats", "50", "--split", "test", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert "may have learnt" not in captured.err
    found = report["splits"]["test"]["rows"]["int8"]["overall"]["accuracy"]["value"]
    (kept,) = [m.value for m in Bundle.open(path).manifest.metrics
               if (m.split, m.source, m.name) == ("test", "all", "accuracy")]  # fmt: skip
    assert found == pytest.approx(kept)


def test_the_evaluation_sees_what_the_live_path_sees(smoke: Any) -> None:
    """The prepared inputs are those of edge's own Analyser, pixel for pixel."""
    from trainer.stages import recall_run  # noqa: PLC0415

    run = recall_run(smoke[0], smoke[0] / "images")
    inputs = run.inputs("val")
    (path,) = smoke[0].glob("bundle-*/vocal-folds-smoke-0.0.0.zip")
    analyser = Analyser(Bundle.open(path))
    for image, record in list(zip(inputs.images, inputs.records, strict=True))[:6]:
        analyser.analyse(record.read_image(run.root))
        assert (analyser.model_input[0] == image).all()


def test_data_import_and_audit(smoke: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest,) = smoke[0].glob("data-*/manifest.csv")
    root = str(smoke[0] / "images")
    code = main(["data", "audit", "--data", root, "--manifest", str(manifest), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["clean"] else 1)
    assert report["images"] == 128
    assert main(["data", "sheet", "--data", root, "--manifest", str(manifest), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "train-folds.png").exists()
