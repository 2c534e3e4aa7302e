"""A search over a comparison's settings, by optuna, in one study that several processes and machines may join."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from edge.errors import ConfigError
from trainer.console import say
from trainer.laboratory.recipe import LaboratoryRecipe
from trainer.laboratory.study import Laboratory
from trainer.recipe import check_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trainer.stages import Machine


@dataclasses.dataclass(frozen=True)
class Varied:
    """A setting that is searched over.

    Attributes:
        key: its place in the recipe, by dots: `rows.kl.terms.0.temperature`.
        low: smallest value.
        high: largest value.
        log: whether it is drawn by its logarithm.
        choices: the values, in place of a range.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Any:
        """A value for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if float(self.low).is_integer() and float(self.high).is_integer() and not self.log:
            return trial.suggest_int(self.key, int(self.low), int(self.high))
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


def parse_varied(text: str) -> Varied:
    """Read `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log` or `KEY=A,B,C`.

    Raises:
        ConfigError: it is neither.
    """
    said = f"--vary {text}: give KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C"
    key, equals, values = text.partition("=")
    if not key or not equals:
        raise ConfigError(said)
    try:
        if ".." in values:
            low, _, rest = values.partition("..")
            high, _, log = rest.partition(":")
            if log not in ("", "log"):
                raise ConfigError(said)
            found = Varied(key, float(low), float(high), log == "log")
            if not found.low < found.high or (found.log and found.low <= 0):
                raise ConfigError(f"--vary {text}: the range is empty, or not positive where its logarithm is drawn")
            return found
        choices = tuple(_plain(part.strip()) for part in values.split(","))
    except ValueError as error:
        raise ConfigError(said) from error
    return Varied(key, choices=choices)


def _plain(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def changed(recipe: LaboratoryRecipe, values: Mapping[str, Any]) -> LaboratoryRecipe:
    """A recipe with some settings changed.

    Raises:
        ConfigError: it has no such setting, or may not have such a value.
    """
    content: dict[str, Any] = recipe.model_dump(mode="json")
    for key, value in values.items():
        place: Any = content
        *path, last = key.split(".")
        try:
            for part in path:
                place = place[int(part)] if isinstance(place, list) else place[part]
            if isinstance(place, list):
                place[int(last)] = value
            elif last in place:
                place[last] = value
            else:
                raise KeyError(last)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ConfigError(f"{key}: recipe {recipe.name} has no such setting; `recipe show` prints all") from error
    return check_recipe(LaboratoryRecipe, content, recipe.name)


def sweep(
    recipe: LaboratoryRecipe, root: Path, out: Path, machine: Machine, row: str, varied: Sequence[Varied], trials: int,
    storage: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Search, on validation alone; the test split is not read.

    All trials share the folder: what does not depend on what is varied (lesson, teachers, their answers) is made once.

    Args:
        recipe: see there.
        root: the data root.
        out: folder of the networks, and of the study's journal where no storage is named.
        machine: threads and devices.
        row: whose validation score is to be highest, mean over the recipe's seeds.
        varied: what is searched over.
        trials: how many in all, over everybody who joins.
        storage: a database that optuna knows (its URL), in place of the journal in `out`.

    Returns:
        For JSON: `trials` (number, settings, score) and the `best` of them.

    Raises:
        ConfigError: there is no such row or setting.
    """
    if row not in recipe.rows:
        raise ConfigError(f"{row} is no row of {recipe.name}: they are {', '.join(recipe.rows)}")
    changed(recipe, {one.key: one.choices[0] if one.choices else one.low for one in varied})
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept: Any = storage or JournalStorage(JournalFileBackend(str(out / "sweep.journal")))
    sampler = optuna.samplers.TPESampler(constant_liar=True)  # trials that others are at count as poor ones
    study = optuna.create_study(
        study_name=f"{recipe.name}/{row}", storage=kept, direction="maximize", sampler=sampler, load_if_exists=True
    )

    def objective(trial: optuna.Trial) -> float:
        values = {one.key: one.suggest(trial) for one in varied}
        say(f"trial {trial.number}: " + ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                                                  for key, value in values.items()))  # fmt: skip
        laboratory = Laboratory(changed(recipe, values), root, out, machine)
        return laboratory.score(row)

    done = optuna.trial.TrialState.COMPLETE
    study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(trials, states=(done,))],
                   n_trials=None if len(study.get_trials(states=(done,))) < trials else 0)  # fmt: skip
    complete = study.get_trials(states=(done,))
    rows: list[dict[str, Any]] = [{"number": t.number, "settings": t.params, "score": t.value} for t in complete]
    return {"trials": rows, "best": max(rows, key=lambda one: float(one["score"]))}
