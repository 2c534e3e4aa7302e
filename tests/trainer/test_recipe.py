"""Recipes: what ships is valid, what is wrong is said, and a new setting leaves earlier work valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.errors import ConfigError
from trainer.recipe import RECIPES, QuantiseSettings, Recipe, TrainSettings, digest, load_recipe


@pytest.fixture
def content() -> Any:
    return yaml.safe_load((RECIPES / "vocal-folds.yaml").read_text(encoding="utf-8"))


def is_bundles(path: Path) -> bool:
    """Whether a recipe makes a bundle: those of other kinds (trainer.segment, trainer.laboratory) say which."""
    return "kind" not in yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(filter(is_bundles, RECIPES.glob("*.yaml"))), ids=lambda p: p.stem)
def test_recipes_that_ship_are_valid(path: Any) -> None:
    assert load_recipe(path.stem).name == path.stem
    assert load_recipe(str(path)) == load_recipe(path.stem)


def test_every_fault_is_named_at_once(content: Any, tmp_path: Path) -> None:
    content["teacher"]["train"]["epohcs"] = 3
    content["student"]["widths"] = [16, 20, 64, 128]
    content["distil"] = {"temperature": -1}
    del content["bundle"]["name"]
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    said = str(caught.value)
    assert "teacher.train.epohcs is no setting of a recipe: remove it or correct its name" in said
    assert "must be multiples of 16" in said
    assert "distil.temperature is -1" in said
    assert "bundle.name is missing: set it" in said
    assert str(path) in said
    assert "\n" not in said


@pytest.mark.parametrize("text", ["[1, 2", "", "- a\n- b\n"])
def test_what_is_no_recipe_is_refused(text: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_recipe(str(path))


def test_a_recipe_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"nothing: no recipe there.*vocal-folds"):
        load_recipe("nothing")


def test_nothing_to_learn_is_refused(content: Any) -> None:
    content["distil"] = {"soft": 0, "hard": 0}
    with pytest.raises(ValueError, match="nothing to learn"):
        Recipe.model_validate(content)


def test_mixing_wants_a_teacher_and_knows_no_sources(content: Any) -> None:
    content["distil"] = {"soft": 0, "hard": 1, "mix": 0.5}
    with pytest.raises(ValueError, match="mix wants soft above 0"):
        Recipe.model_validate(content)
    content["distil"] = {"mix": 0.5}
    assert Recipe.model_validate(content).distil.mix == 0.5
    content["student"]["robust"] = {"group_dro": 0.01}
    with pytest.raises(ValueError, match=r"student\.robust wants each one's source"):
        Recipe.model_validate(content)


@pytest.mark.parametrize("part", ["teacher", "distil"])
def test_a_focus_wants_maps(content: Any, part: str) -> None:
    content.setdefault(part, {})["focus"] = 0.5
    content["maps"] = None
    with pytest.raises(ValueError, match=rf"{part}\.focus is 0\.5, but there are no maps"):
        Recipe.model_validate(content)
    content["maps"] = {}
    assert getattr(Recipe.model_validate(content), part).focus == 0.5


def test_a_digest_follows_the_settings_but_not_unused_defaults() -> None:
    plain = TrainSettings(epochs=1, epoch_images=8)
    assert digest(plain) == digest(TrainSettings(epochs=1, epoch_images=8, clip=5.0))
    assert digest(plain) != digest(TrainSettings(epochs=2, epoch_images=8))
    assert digest("a", plain) != digest("b", plain)
    assert digest(QuantiseSettings()) != digest(QuantiseSettings(method="entropy"))
