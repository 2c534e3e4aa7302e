"""Whole comparisons, tiny: every recipe that ships, resumed, answered from disk as online, and refused where wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trainer._torchvision import ensure_torchvision  # noqa: E402  after the check for torch

ensure_torchvision()
pytest.importorskip("lightning")

from edge.errors import ConfigError, FoldsightError  # noqa: E402
from trainer import train  # noqa: E402
from trainer.answers import load_answers, load_study  # noqa: E402
from trainer.cli import main  # noqa: E402
from trainer.kinds import kind_of  # noqa: E402
from trainer.laboratory import lesson  # noqa: E402
from trainer.laboratory.lesson import Asker, LessonSet  # noqa: E402
from trainer.laboratory.recipe import LaboratoryRecipe  # noqa: E402
from trainer.laboratory.smoke import write_smoke_task  # noqa: E402
from trainer.laboratory.study import Job, Laboratory  # noqa: E402
from trainer.laboratory.table import figures, markdown  # noqa: E402
from trainer.recipe import RECIPES  # noqa: E402
from trainer.stages import Machine  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # seconds on an idle machine
COMPARISONS = sorted(path.stem for path in RECIPES.glob("*.yaml") if kind_of(path.stem) == "comparison")
SCHEDULE = {"epochs": 2, "batch": 8, "precision": "32-true"}
ALL = ["kl", "bce", "squared", "absolute", "dkd", "dist", "fitnets", "attention", "map_kl", "wasserstein", "l1", "rkd",
       "similarity"]  # fmt: skip


def recipe(**more: Any) -> Any:
    teacher = {"model": "test_efficientnet", "train": SCHEDULE}
    return LaboratoryRecipe.model_validate({
        "kind": "comparison", "name": "tiny", "seeds": [1], "side": 32,
        "task": {"kind": "folders", "folder": "mine", "labels": ["a", "b", "c"]},
        "lesson": {"images": 16, "variants": 2, "feature_side": 2},
        "teachers": {"one": teacher, "two": {**teacher, "model": "simple_resnet"}},
        "ensembles": {"both": ["one", "two"]},
        "students": {"micro": {"model": "micro", "train": SCHEDULE}},
        "rows": {
            "scratch": {"family": "control"},
            "every": {"taught_by": ["both"], "terms": [*({"loss": loss} for loss in ALL), {"loss": "fusion"}]},
        },
        **more,
    })  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_smoke_task(recipe(), root)
    return root


def laboratory(root: Path, out: Path, made: Any = None, **more: Any) -> Any:
    return Laboratory(made or recipe(), root, out, Machine(1), **more)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_that_ships_runs_on_generated_images(
    name: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", name, "--smoke", "--out", str(tmp_path), "--threads", "1", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    study, folder = load_study(tmp_path)
    assert {row["name"] for row in found["rows"]} == {row.name for row in study.rows}
    assert {"val", "test"} == set(load_answers(study, folder))
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.glob("networks/*/*.pt")}
    assert main(words) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("networks/*/*.pt")} == weights
    assert json.loads(capsys.readouterr().out) == found


@pytest.fixture(scope="module")
def done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A comparison that is done."""
    made = laboratory(images, tmp_path_factory.mktemp("done"))
    return made, made.run()


def test_the_table_tells_every_row(done: Any) -> None:
    made, study = done
    found = figures(study, made.out, "test")
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["both", "one", "two", "scratch", "every"]
    assert "gain" not in rows["scratch"]
    gain = rows["every"]["balanced_accuracy"]["mean"] - rows["scratch"]["balanced_accuracy"]["mean"]
    assert rows["every"]["gain"]["value"] == pytest.approx(gain)
    assert markdown(found).count("\n| ") == 7
    answers = load_answers(study, made.out)["test"]
    mean = (answers["one"]["0"].logits + answers["two"]["0"].logits) / 2
    assert np.allclose(answers["both"]["0"].logits, mean, atol=1e-6)


def test_answers_from_disk_give_the_losses_of_teachers_that_are_asked(done: Any) -> None:
    made, _ = done
    job, names = Job("every", 1), ["one", "two"]
    answers = {name: made.answers(name) for name in names}
    data = LessonSet(made.lesson, 32, answers, 1)
    units = {name: answers[name].units for name in names}
    ask = Asker({name: made.teacher(name) for name in names}, units, most=2, features=True,
                device=torch.device("cpu"))  # fmt: skip
    cached, online = made.task(job, 0.0), made.task(job, 0.0, ask)
    online.guides.load_state_dict(cached.guides.state_dict())
    for task in (cached, online):
        task.train()
    for epoch in range(2):
        data.set_epoch(epoch)
        samples = [data[i] for i in range(8)]
        pixels, labels = torch.stack([s[0] for s in samples]), torch.tensor([s[1] for s in samples])
        kept = {name: torch.stack([s[3][name] for s in samples]) for name in samples[0][3]}
        torch.manual_seed(epoch)  # of dropout
        first = cached(pixels, labels, kept)
        torch.manual_seed(epoch)
        second = online(pixels, labels, None)
        assert set(first) == {"loss", "hard", "fusion", *ALL}
        for name, value in first.items():
            assert float(value.detach()) == pytest.approx(float(second[name].detach()), rel=2e-3, abs=1e-5), name


def test_an_interrupted_comparison_ends_with_the_same_weights(
    done: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = done
    job = Job("every", 1)
    cut = laboratory(images, tmp_path)
    monkeypatch.setattr(train, "_SAVE_EVERY_S", 0.0)
    drawn, take = 0, LessonSet.__getitem__

    def stop(self: Any, i: Any) -> Any:
        nonlocal drawn
        drawn += bool(self._answers)
        if drawn == 28:  # in the second epoch of the row that is taught
            raise KeyboardInterrupt
        return take(self, i)

    monkeypatch.setattr(LessonSet, "__getitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert not cut.done(job)
    assert (cut.folder(job) / train.LAST).exists()
    cut.run()
    first, second = (torch.load(made.folder(job) / train.LAST, weights_only=True) for made in (whole, cut))
    for part in ("model", "ema", "helpers"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items()), part


def test_weights_of_another_run_stand_in_for_a_teacher(done: Any, images: Path, tmp_path: Path) -> None:
    whole, _ = done
    best = whole.folder(Job("one", 0)) / train.BEST
    made = laboratory(images, tmp_path, given={"one": best})
    made.train(Job("one", 0))
    assert np.array_equal(made.answers("one").logits, whole.answers("one").logits)
    with pytest.raises(ConfigError, match=r"best\.pt does not fit two with its 3 classes"):
        laboratory(images, tmp_path, given={"two": best}).train(Job("two", 0))
    with pytest.raises(ConfigError, match="nobody is no teacher of the recipe"):
        laboratory(images, tmp_path, given={"nobody": best})
    with pytest.raises(ConfigError, match="no weights there"):
        laboratory(images, tmp_path, given={"one": tmp_path / "none.pt"})


def test_what_a_network_does_not_depend_on_leaves_its_hash(images: Path, tmp_path: Path) -> None:
    made = laboratory(images, tmp_path)
    other = recipe().model_dump()
    other["rows"]["every"]["title"] = "all at once"
    other["rows"]["more"] = {"smoothing": 0.1}
    other["seeds"] = [1, 2]
    same = laboratory(images, tmp_path, LaboratoryRecipe.model_validate(other))
    assert same.key(Job("every", 1)) == made.key(Job("every", 1))
    other["teachers"]["two"]["train"]["epochs"] = 3
    changed = laboratory(images, tmp_path, LaboratoryRecipe.model_validate(other))
    assert changed.key(Job("every", 1)) != made.key(Job("every", 1))
    assert changed.key(Job("scratch", 1)) == made.key(Job("scratch", 1))


def test_a_full_disk_is_found_before_anything_is_drawn(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lesson.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FoldsightError, match=r"0 MB are needed there and 0 MB are free; make room"):
        _ = laboratory(images, tmp_path).lesson
    assert not list(tmp_path.glob("*lesson*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "paper2-fusion"], "needs images"),
        (["compare", "paper2-fusion", "--data", ".", "--seeds", "x"], "give whole numbers"),
        (["compare", "paper2-fusion", "--data", ".", "--with", "lite0"], "give TEACHER=FILE"),
        (["compare", "vocal-folds", "--smoke"], "kind"),
        (["run", "paper2-fusion", "--smoke", "--stage", "teacher"], "a comparison such as paper2-fusion has none"),
    ],
)
def test_what_is_wrong_is_one_sentence(words: Any, said: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
