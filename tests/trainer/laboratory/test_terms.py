"""What a recipe may ask: every refusal with its reason, and what ships is valid."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from edge.errors import ConfigError
from trainer.kinds import load_any, recipe_class
from trainer.laboratory.recipe import LaboratoryRecipe
from trainer.recipe import RECIPES, Recipe, load_recipe

SCHEDULE = {"epochs": 1}
TABLE = {
    "kind": "table", "table": "t.csv", "images": "img", "labels": {"a": ["a"], "b": ["b"], "c": ["c"]},
}  # fmt: skip


def recipe(terms: Any = (), taught_by: Any = ("teacher",), task: Any = None, **more: Any) -> Any:
    return LaboratoryRecipe.model_validate({
        "kind": "comparison", "name": "x", "task": task or {"kind": "visibility"}, "lesson": {"images": 8},
        "teachers": {name: {"model": "micro", "train": SCHEDULE} for name in ("teacher", "second")},
        "students": {"micro": {"model": "micro", "train": SCHEDULE}},
        "rows": {"scratch": {}, "taught": {"taught_by": list(taught_by), "terms": list(terms)}}, **more,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("terms", "task", "reason"),
    [
        ([{"loss": "dkd"}], None, "that term is exactly zero"),
        ([{"loss": "dist"}], None, r"always \+1 or -1, without any information"),
        ([{"loss": "dkd"}], {**TABLE, "exclusive": False}, "do not exclude each other: take kl or bce"),
        ([{"loss": "dist"}], {**TABLE, "exclusive": False}, "do not exclude each other: take kl or bce"),
        ([{"loss": "fusion"}], None, "joins several teachers"),
        ([{"loss": "rkd", "distances": 0, "angles": 0}], None, "teaches nothing"),
        ([], None, "needs both taught_by and terms"),
        ([{"loss": "kll"}], None, "does not match any of the expected tags"),
        ([{"loss": "kl", "temperature": 0}], None, "greater than 0"),
        ([{"loss": "fitnets", "heads": 3}], None, "Extra inputs"),
    ],
)
def test_what_carries_no_information_is_refused(terms: Any, task: Any, reason: Any) -> None:
    with pytest.raises(ValueError, match=reason):
        recipe(terms, task=task)


def test_the_same_terms_are_welcome_where_they_tell_something() -> None:
    recipe([{"loss": "dkd"}, {"loss": "dist"}], task=TABLE)
    recipe([{"loss": "dkd", "others": 0}, {"loss": "dist", "between_classes": 0}])
    recipe([{"loss": "fusion"}], ["teacher", "second"])
    recipe([{"loss": "fusion"}], ["both"], ensembles={"both": ["teacher", "second"]})


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"rows": {"scratch": {}, "a": {"taught_by": ["b"], "terms": [{"loss": "kl"}]}}}, "the teachers before it"),
        ({"rows": {"scratch": {"taught_by": ["teacher"], "terms": [{"loss": "kl"}]}}}, "cannot be taught"),
        ({"rows": {"teacher": {}}}, "name of several"),
        ({"rows": {"scratch": {"student": "large"}}}, "the students are micro"),
        ({"ensembles": {"e": ["teacher"]}}, "needs two or more"),
        ({"reference": "nobody"}, "neither a teacher nor an ensemble"),
        ({"seeds": [1, 1]}, "hold one twice"),
    ],
)
def test_names_that_do_not_fit_are_named(more: Any, reason: Any) -> None:
    with pytest.raises(ValueError, match=reason):
        recipe([{"loss": "kl"}], **more)


def test_a_chain_of_assistants_may_be_of_any_length() -> None:
    one = {"model": "micro", "train": SCHEDULE}
    taught = {f"a{i}": {**one, "taught_by": [f"a{i - 1}"], "terms": [{"loss": "kl"}]} for i in range(1, 6)}
    made = recipe([{"loss": "kl"}], ["a5"], teachers={"a0": one, **taught})
    assert made.teachers_of("taught") == ["a5"]
    with pytest.raises(ValueError, match="the teachers before it are a0"):
        recipe([{"loss": "kl"}], ["a0"], teachers={"a0": one, "a1": {**taught["a1"], "taught_by": ["a1"]}})


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid_and_has_a_schema(path: Any) -> None:
    made = load_any(path.stem)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert made.name == path.stem  # type: ignore[attr-defined]
    assert set(content) <= set(recipe_class(content.get("kind", "bundle")).model_json_schema()["properties"])


def test_an_unknown_kind_is_named(tmp_path: Any) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("kind: detection\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="kind is 'detection'; use segmentation, comparison"):
        load_any(str(path))


def test_a_bundles_recipe_takes_more_terms_and_other_students() -> None:
    content = load_recipe("vocal-folds").model_dump(mode="json")
    content["distil"]["also"] = [{"loss": "attention"}, {"loss": "rkd"}]
    content["student"] |= {"model": "micro"}
    for key in ("widths", "blocks"):
        del content["student"][key]
    made = Recipe.model_validate(content)
    assert made.student.constructor == {}
    content["distil"]["also"] = [{"loss": "dkd"}]
    with pytest.raises(ValueError, match="exactly zero"):
        Recipe.model_validate(content)
    content["distil"]["also"] = []
    content["student"]["widths"] = [16, 32, 64, 64]
    with pytest.raises(ValueError, match="widths and blocks are of a simple_resnet"):
        Recipe.model_validate(content)
