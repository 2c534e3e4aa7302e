from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge import cli


def run(*argv: object) -> int:
    return cli.main([str(a) for a in argv])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, color in (("a.png", (60, 60, 200)), ("inner/b.png", (165, 165, 150))):
        coarse = (np.array(color) + rng.normal(0, 25, (12, 12, 1))).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC))
    return folder


def test_classify_gives_a_line_an_image(tiny_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("classify", pictures, "--bundle", tiny_bundle, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(Path(r["file"]).name, r["verdict"]) for r in lines] == [("a.png", "folds"), ("b.png", "no_folds")]
    assert run("classify", pictures / "a.png", "--bundle", tiny_bundle) == 0
    assert "a.png: folds" in capsys.readouterr().out


def test_classify_goes_on_past_a_broken_image_and_says_so(
    tiny_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a0.jpg").write_bytes(b"not a picture")
    assert run("classify", pictures, "--bundle", tiny_bundle, "--json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert "no readable image" in next(r["error"] for r in lines if "error" in r)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("classify", "{tmp}/none.png"), 1, "is not there"),
        (("classify", "{tmp}"), 1, "holds no images"),
        (("bundle", "verify", "{tmp}/none.zip"), 1, "is not there"),
        (("config", "check", "--set", "capture.fps=0"), 2, "capture.fps is 0"),
        (("config", "check", "--set", "fps"), 2, "is not KEY=VALUE"),
        (("run", "--source", "{tmp}/none.mp4"), 1, "is not there"),
        (("run", "--config", "{tmp}/none.yaml"), 2, "cannot be read"),
        (("watch", "--port", "1", "--seconds", "1"), 1, "no broker answers at 127.0.0.1:1"),
        (("bench", "--source", "{tmp}/none.mp4"), 1, "is not there"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    argv: tuple[str, ...], code: int, words: str, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [a.format(tmp=tmp_path) for a in argv]
    if arguments[0] == "classify":
        arguments += ["--bundle", str(tiny_bundle)]
    if arguments[0] in ("run", "bench"):
        arguments += ["--set", f"model.bundle={tiny_bundle}"]
    assert run(*arguments) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.startswith("foldsight: ")
    assert "Traceback" not in err


def test_wrong_usage_is_2() -> None:
    with pytest.raises(SystemExit) as caught:
        run("frobnicate")
    assert caught.value.code == 2


def test_bundle_inspect_and_verify(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bundle", "inspect", tiny_bundle) == 0
    assert "redness 0.0.1" in capsys.readouterr().out
    assert run("bundle", "verify", tiny_bundle, "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"]


def test_config_show_changes_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "changes", "--set", "device=a", "--set", "capture.fps=60", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"device": "a", "capture": {"fps": 60.0}}
    assert run("config", "schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$defs"]["Capture"]["properties"]["fps"]["description"]


def test_bench_measures_every_stage(tiny_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = f"model.bundle={tiny_bundle}"
    assert run("bench", "--seconds", 1, "--warmup", 0.3, "--json", "--source", pictures, "--set", bundle) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["frames"] > 10
    assert set(result["stages_ms"]) == {"wait", "optics", "preprocess", "inference", "decide", "publish"}
    assert result["age_ms"]["p50"] <= result["age_ms"]["p99"] <= result["age_ms"]["max"]
    assert result["machine"]["cores"] >= 1
    assert result["memory_mb"] > 10
    assert run("bench", "--seconds", 0.5, "--warmup", 0.1, "--lossless", "--source", pictures, "--set", bundle) == 0
    assert "inference alone" in capsys.readouterr().out


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv=['foldsight','config','check']; from edge.cli import main; main(); print([m for m in ('cv2','onnxruntime','torch') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_runtime_starts_no_telemetry(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import edge.runtime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": ""},
    )
    assert done.stdout.strip() == "1"
    assert not list(tmp_path.rglob("*"))
