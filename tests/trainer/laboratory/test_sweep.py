"""A search that is joined and gone on with, and what cannot be searched over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("optuna")

from edge.errors import ConfigError  # noqa: E402  after the check for torch
from trainer.cli import main  # noqa: E402
from trainer.laboratory.recipe import load_laboratory_recipe  # noqa: E402
from trainer.laboratory.sweep import Varied, changed, parse_varied  # noqa: E402

pytestmark = pytest.mark.timeout(900)
RATE = "students.three_conv.train.learning_rate"


def test_ranges_and_choices_are_read() -> None:
    assert parse_varied("a.b=1..20") == Varied("a.b", 1, 20)
    assert parse_varied("a=5e-4..5e-3:log") == Varied("a", 5e-4, 5e-3, log=True)
    assert parse_varied("a=1,2.5,all") == Varied("a", choices=(1, 2.5, "all"))
    for text in ("a", "=1..2", "a=1..b", "a=1..2:lin", "a=2..1", "a=0..1:log"):
        with pytest.raises(ConfigError, match="--vary"):
            parse_varied(text)


def test_a_setting_is_changed_or_named() -> None:
    recipe = load_laboratory_recipe("paper3-assistant")
    other = changed(recipe, {RATE: 0.5, "rows.by-assistant.terms.1.weight": 3})
    assert other.students["three_conv"].train.learning_rate == 0.5
    assert other.rows["by-assistant"].terms[1].weight == 3
    for key in ("rows.nobody.hard", "rows.alone.hardness", "rows.by-assistant.terms.7.weight"):
        with pytest.raises(ConfigError, match=f"{key}: recipe paper3-assistant has no such setting"):
            changed(recipe, {key: 1})
    with pytest.raises(ConfigError, match="greater than 0"):
        changed(recipe, {RATE: -1.0})


def test_a_search_goes_on_where_others_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def search(trials: Any) -> Any:
        words = ["sweep", "paper3-assistant", "--smoke", "--out", str(tmp_path), "--row", "alone", "--vary",
                 f"{RATE}=1e-4..1e-2:log", "--trials", str(trials), "--threads", "1", "--json"]  # fmt: skip
        assert main(words) == 0
        return json.loads(capsys.readouterr().out)

    first, second = search(1), search(2)
    assert len(first["trials"]) == 1
    assert second["trials"][0] == first["trials"][0]
    assert len(second["trials"]) == 2
    assert second["best"] in second["trials"]
    assert not list(tmp_path.glob("test-split-readings*"))  # the test split is not read
    assert not list(tmp_path.glob("networks/b6*"))  # nor is a teacher trained that nobody asks
