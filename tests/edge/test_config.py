from __future__ import annotations

from pathlib import Path

import pytest

from edge import config
from edge.errors import ConfigError


def write(folder: Path, text: str, name: str = "edge.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_defaults_work_without_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none.yaml")
    assert config.load(None) == config.Config()


def test_the_example_is_right() -> None:
    example = Path(__file__).parents[2] / "deploy" / "config" / "edge.yaml"
    assert config.load(example).device == "theatre-3"


def test_every_fault_is_told_at_once_with_line_key_value_and_hint(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "device: Theatre 3\ncapture:\n  soruce: phantom\n  fps: 0\n  width: wide\n"
        "port: 1883\nlatency:\n  budget_ms: [1]\n",
    )
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    told = {line.split(": ", 1)[0].removeprefix(f"{path}:"): line for line in lines}
    assert 'device is "Theatre 3"' in told["1"]
    assert "did you mean capture.source?" in told["3"]
    assert "capture.fps is 0; it should be greater than 0" in told["4"]
    assert 'capture.width is "wide"' in told["5"]
    assert "port is not a setting; did you mean mqtt.port?" in told["6"]
    assert "latency.budget_ms is [1]" in told["8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("capture: {", "not valid YAML"),
        ("- a\n- b\n", "must hold settings"),
        ("device: a\ndevice: b\n", "device is given twice (first in line 1)"),
        ("capture: 5\n", "capture is 5"),
    ],
)
def test_what_is_no_settings_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text))
    assert words in str(caught.value)


def test_missing_binary_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "none.yaml")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(binary)
    assert config.load(write(tmp_path, "")) == config.Config()


def test_drop_ins_are_laid_over_by_name_and_faults_name_their_file(tmp_path: Path) -> None:
    path = write(tmp_path, "device: a\ncapture:\n  fps: 10\n  width: 640\n")
    write(tmp_path / "edge.d", "capture:\n  fps: 20\n", "10-rate.yaml")
    write(tmp_path / "edge.d", "capture:\n  fps: 25\n", "20-rate.yaml")
    loaded = config.load(path)
    assert (loaded.device, loaded.capture.fps, loaded.capture.width) == ("a", 25, 640)
    write(tmp_path / "edge.d", "capture:\n  fps: -1\n", "30-rate.yaml")
    with pytest.raises(ConfigError, match=r"30-rate.yaml:2: capture.fps is -1"):
        config.load(path)


def test_changes_are_only_what_differs(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, "device: a\ncapture:\n  fps: 30\n  width: 640\n"))
    assert config.changes(loaded) == {"device": "a", "capture": {"width": 640}}


def test_the_hash_follows_the_settings() -> None:
    assert config.Config(device="a").sha256 == config.Config(device="a").sha256
    assert config.Config(device="a").sha256 != config.Config(device="b").sha256
