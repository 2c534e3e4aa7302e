"""The kinds of recipes: one that makes a bundle, and studies of two kinds; a recipe's `kind` says which."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from edge.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

BUNDLE = "bundle"
"""The kind of a recipe that names none."""
_CLASSES = {
    BUNDLE: ("trainer.recipe", "Recipe"),
    "segmentation": ("trainer.segment.recipe", "SegmentRecipe"),
    "comparison": ("trainer.laboratory.recipe", "LaboratoryRecipe"),
}
KINDS = tuple(_CLASSES)
COMMANDS = {"segmentation": "segment", "comparison": "compare"}
"""By kind of study, the command that does it."""


def kind_of(name: str) -> str:
    """The kind of a recipe, given by its path or as one that ships.

    Raises:
        ConfigError: it cannot be read, or is of no known kind.
    """
    from trainer.recipe import read_recipe  # noqa: PLC0415  the command line asks for the kinds at its start

    content, where = read_recipe(name)
    kind = content.get("kind", BUNDLE) if isinstance(content, dict) else BUNDLE
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind is {kind!r}; use {', '.join(COMMANDS)}, or none for a bundle's recipe")
    return str(kind)


def recipe_class(kind: str) -> type[BaseModel]:
    """The model of a kind of recipe."""
    module, name = _CLASSES[kind]
    found: type[BaseModel] = getattr(importlib.import_module(module), name)
    return found


def load_any(name: str) -> BaseModel:
    """Read a recipe of any kind.

    Raises:
        ConfigError: it cannot be read, or has keys or values that no such recipe has; all of them at once.
    """
    from trainer.recipe import check_recipe, read_recipe  # noqa: PLC0415

    return check_recipe(recipe_class(kind_of(name)), *read_recipe(name))
