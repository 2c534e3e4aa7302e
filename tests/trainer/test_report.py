"""The report: figures against known answers, honest verdicts, and a page that stands alone."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

metrics = pytest.importorskip("sklearn.metrics")
pytest.importorskip("matplotlib")
pytest.importorskip("torch")

from edge.errors import ConfigError, FoldsightError  # noqa: E402  after the checks for the trainer's packages
from trainer.answers import SplitAnswers, Study, StudyComparison, StudyRow  # noqa: E402
from trainer.calibration import probabilities  # noqa: E402
from trainer.cli import main  # noqa: E402
from trainer.ledger import note_reading  # noqa: E402
from trainer.report.claim import checklist  # noqa: E402
from trainer.report.cost import cost_table, load_cost  # noqa: E402
from trainer.report.evidence import Task  # noqa: E402
from trainer.report.page import claims_of, collect, render  # noqa: E402

GROUPS, PER_GROUP = 60, 4


def world(seed: int, classes: int = 2) -> dict[str, Any]:
    """Images of a split: labels, and what is common to a group."""
    rng = np.random.default_rng(seed)
    count = GROUPS * PER_GROUP
    return {
        "labels": rng.integers(0, classes, count),
        "ids": np.array([f"{seed}-{i}" for i in range(count)]),
        "groups": np.repeat([f"{seed}-g{g}" for g in range(GROUPS)], PER_GROUP),
        "sources": np.repeat(["one", "two"], count // 2),
    }


def answer(parts: dict[str, Any], skill: float, seed: int, classes: int = 2) -> SplitAnswers:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (len(parts["ids"]), classes))
    if parts["labels"].ndim > 1:
        logits += skill * (parts["labels"] - 0.5)
    else:
        logits[np.arange(len(logits)), parts["labels"]] += skill
    return SplitAnswers(logits.astype(np.float32), **parts)


def write_study(folder: Path, *, classes: int = 2, multi: bool = False, **more: Any) -> Study:
    """Four rows, two seeds: a teacher far better, a student better, one that is the baseline over again."""
    splits = {"val": world(1, classes), "test": world(2, classes)}
    if multi:
        for number, parts in enumerate(splits.values()):
            parts["labels"] = np.random.default_rng(number).random((GROUPS * PER_GROUP, classes)) < 0.3
    skills = {"scratch": 1.0, "same": 1.0, "student": 2.6, "teacher": 4.5}
    rows = []
    for place, (name, skill) in enumerate(skills.items()):
        files: dict[str, dict[str, str]] = {}
        for seed in range(2):
            for split, parts in splits.items():
                file = f"{name}-{seed}-{split}.npz"
                own = 100 * seed + (0 if name == "same" else 10 * place)  # `same` answers as the baseline does
                answer(parts, skill, own, classes).save(folder / file)
                files.setdefault(str(seed), {})[split] = file
        kind: Any = {"scratch": "control", "teacher": "teacher"}.get(name, "student")
        rows.append(StudyRow(name=name, title=f"the {name}", kind=kind, parameters=1000, macs=10**6, answers=files))
    labels = ["no_folds", "folds"] if classes == 2 else [f"class {k}" for k in range(classes)]
    study = Study(**({"name": "trial <&>", "about": "A study of nothing.", "labels": labels, "rows": rows,
                      "finding": "folds" if classes == 2 and not multi else None, "exclusive": not multi,
                      "baseline": "scratch", "teacher": "teacher"} | more))  # fmt: skip
    study.save(folder)
    return study


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("study")
    study = write_study(folder, comparisons=[StudyComparison(first="same", second="student", about="why not")])
    return folder, study, collect(folder, repeats=400)


def test_figures_are_the_librarys_mean_over_seeds(trial: Any) -> None:
    folder, _, evidence = trial
    assert evidence["split"] == "test"
    parts = [SplitAnswers.load(folder / f"student-{seed}-test.npz") for seed in range(2)]
    accuracy = [metrics.accuracy_score(a.labels, a.logits.argmax(1)) for a in parts]
    area = [metrics.roc_auc_score(a.labels, probabilities(a.logits, exclusive=True)[:, 1]) for a in parts]
    precision = [metrics.precision_score(a.labels, a.logits.argmax(1), pos_label=0) for a in parts]
    found = evidence["splits"]["test"]["rows"]["student"]["figures"]
    assert found["accuracy"]["value"] == pytest.approx(np.mean(accuracy))
    assert found["accuracy"]["deviation"] == pytest.approx(np.std(accuracy, ddof=1))
    assert found["auc"]["value"] == pytest.approx(np.mean(area))
    assert found["precision:no_folds"]["value"] == pytest.approx(np.mean(precision))
    assert found["accuracy"]["low"] < found["accuracy"]["value"] < found["accuracy"]["high"]
    confusion = np.mean([metrics.confusion_matrix(a.labels, a.logits.argmax(1)) for a in parts], 0)
    assert np.array(evidence["splits"]["test"]["rows"]["student"]["confusion"]) == pytest.approx(confusion)


def test_curves_are_those_of_the_library(trial: Any) -> None:
    folder, _, evidence = trial
    part = SplitAnswers.load(folder / "teacher-0-val.npz")
    other = SplitAnswers.load(folder / "teacher-1-val.npz")
    grid = np.linspace(0, 1, 101)
    expected = []
    for answers in (part, other):
        false, true, _ = metrics.roc_curve(answers.labels, probabilities(answers.logits, exclusive=True)[:, 1])
        expected.append([true[false <= x + 1e-12].max() for x in grid])
    found = evidence["splits"]["val"]["rows"]["teacher"]["curves"]["folds"]
    assert found["roc"] == pytest.approx(np.mean(expected, 0), abs=1e-4)
    low, high = (np.array(part, float) for part in found["roc_band"])
    assert (low <= np.array(found["roc"]) + 0.02).all()
    assert (high >= np.array(found["roc"]) - 0.02).all()


def test_a_gain_is_a_gain_and_the_same_again_is_none(trial: Any) -> None:
    _, _, evidence = trial
    found = {(c["first"], c["second"]): c for c in evidence["splits"]["test"]["comparisons"]}
    assert found["student", "scratch"]["figures"]["accuracy"]["verdict"] == "gain"
    assert found["same", "student"]["figures"]["accuracy"]["verdict"] == "loss"
    assert found["same", "student"]["about"] == "why not"
    same = found["same", "scratch"]["figures"]["accuracy"]
    assert (same["value"], same["verdict"]) == (0, "none")
    assert same["low"] <= 0 <= same["high"]
    assert all(c["figures"]["accuracy"]["holm"] >= c["figures"]["accuracy"]["p"] for c in found.values())
    assert found["student", "scratch"]["mcnemar"]["p"] < 0.01
    assert found["student", "scratch"]["delong"]["p_groups"] < 0.01
    assert evidence["splits"]["test"]["comparisons"][0]["second"] == "scratch"
    assert {pair for pair in found if pair[1] == "scratch"} == {(n, "scratch") for n in ("same", "student", "teacher")}


def test_the_gap_is_recovered_in_part(trial: Any) -> None:
    _, _, evidence = trial
    rows = evidence["splits"]["test"]["rows"]
    value = {name: rows[name]["figures"]["accuracy"]["value"] for name in rows}
    share = (value["student"] - value["scratch"]) / (value["teacher"] - value["scratch"])
    assert rows["student"]["recovered"]["value"] == pytest.approx(share)
    assert rows["student"]["recovered"]["low"] < share < rows["student"]["recovered"]["high"]
    assert rows["teacher"]["recovered"] is None


def test_an_uncertain_gap_is_no_gap(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    study.model_copy(update={"teacher": "same"}).save(tmp_path)
    evidence = collect(tmp_path, repeats=100)
    assert evidence["splits"]["test"]["rows"]["student"]["recovered"] is None


def test_the_best_is_chosen_on_validation(trial: Any) -> None:
    assert trial[2]["best"] == "student"


@pytest.mark.parametrize(("classes", "multi"), [(2, False), (5, False), (3, True)])
def test_the_page_stands_alone(classes: int, multi: bool, tmp_path: Path) -> None:
    study = write_study(tmp_path, classes=classes, multi=multi)
    note_reading(tmp_path, "compare", "ab" * 32, 240)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html"), "--repeats", "60"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    evidence = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert evidence["study"]["name"] == study.name
    assert evidence["readings"][0]["images"] == 240
    assert "trial &lt;&amp;&gt;" in page  # names are text, never markup
    assert "trial <&>" not in page
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    for name in ("scratch", "same", "student", "teacher"):
        assert f"the {name}" in page
    assert "Research software, not a medical device" in page
    assert page.count("<svg") >= 5
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    Wellformed().check(page)


class Wellformed(html.parser.HTMLParser):
    """Every element that is opened is closed, in order."""

    _VOID = frozenset(("meta", "br", "img", "link"))

    def check(self, page: str) -> None:
        self.stack: list[str] = []
        self.feed(page)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        del attrs
        if tag not in self._VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack
        assert self.stack.pop() == tag, (tag, self.getpos())


def test_without_a_test_split_the_page_says_what_it_rests_on(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    rows = [
        row.model_copy(update={"answers": {"0": {"val": row.answers["0"]["val"]}}})
        for row in study.rows
        if row.name != "teacher"
    ]
    study.model_copy(update={"rows": rows, "teacher": None, "baseline": None}).save(tmp_path)
    evidence = collect(tmp_path, repeats=60)
    figure = {"value": 0.4321, "low": None, "high": None}
    names = ("accuracy", "recall_other", "recall_finding", "balanced_accuracy", "auc")
    overall = {"overall": dict.fromkeys(names, figure)}
    stored = {"splits": {"test": {"images": 9, "groups": 3, "rows": {"scratch": overall}}}}
    page = render(evidence, tmp_path, stored=stored)
    assert evidence["split"] == "val"
    assert "43.2" in page  # what an evaluation stored is shown where its answers were not kept
    for said in (
        "an evaluation from before it began",
        "these figures are optimistic",
        "One seed",
        "The ledger holds no reading",
        "not measured",
        "fitted on the groups of other folds",
        "best student, by validation",
    ):
        assert said in page, said
    assert "Every answer was given by the device" not in page


def test_splits_that_share_a_group_prove_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for row in study.rows:
        for seed, files in row.answers.items():
            part = SplitAnswers.load(tmp_path / files["test"])
            groups = part.groups.copy()
            groups[:] = np.where(groups == groups[0], "1-g0", groups)
            SplitAnswers(part.logits, part.labels, part.ids, groups, part.sources).save(tmp_path / files["test"])
            assert seed
    with pytest.raises(FoldsightError, match="share 1 groups"):
        collect(tmp_path, repeats=60)


def test_one_group_has_no_interval_and_no_gain(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for row in study.rows:
        for files in row.answers.values():
            for split, file in files.items():
                part = SplitAnswers.load(tmp_path / file)
                alone = np.full(len(part.ids), split)
                SplitAnswers(part.logits, part.labels, part.ids, alone, alone).save(tmp_path / file)
    evidence = collect(tmp_path, repeats=60)
    assert all(c["figures"]["accuracy"]["verdict"] == "none" for c in evidence["splits"]["test"]["comparisons"])
    assert evidence["splits"]["test"]["rows"]["student"]["figures"]["accuracy"]["low"] is None
    task = Task.of(study)
    assert all("no interval" in claim["text"] for claim in claims_of(study, task, evidence))


def test_a_gain_that_rests_on_one_patient_is_none(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for row in study.rows:
        for files in row.answers.values():
            for file in files.values():
                part = SplitAnswers.load(tmp_path / file)
                groups = np.where(part.sources == "two", part.groups[-1], part.groups)
                logits = part.logits.copy()
                if row.name == "student":  # better than the baseline on the one patient alone
                    base = SplitAnswers.load(tmp_path / file.replace("student", "scratch"))
                    logits[part.sources == "one"] = base.logits[part.sources == "one"]
                SplitAnswers(logits, part.labels, part.ids, groups, part.sources).save(tmp_path / file)
    evidence = collect(tmp_path, repeats=200)
    found = {c["first"]: c["figures"]["accuracy"] for c in evidence["splits"]["test"]["comparisons"]}
    assert found["student"]["low"] > 0
    assert (found["student"]["firm"]["value"], found["student"]["verdict"]) == (0, "none")
    assert found["teacher"]["verdict"] == "gain"  # with the patient and without


def test_claims_are_sentences_with_their_uncertainty(trial: Any) -> None:
    _, study, evidence = trial
    said = claims_of(study, Task.of(study), evidence)
    (gain,) = [c for c in said if c["text"].startswith("the student against the scratch")]
    assert gain["verdict"] == "gain"
    assert re.search(r"\+\d+\.\d points of accuracy \(\+\d+\.\d to \+\d+\.\d\), p [<=] 0\.\d+ after Holm", gain["text"])


def test_claim_has_all_items_and_claims_no_more_than_it_holds(trial: Any) -> None:
    _, study, evidence = trial
    items = checklist(study, evidence)
    assert [item.number for item in items] == list(range(1, 43))
    status = {item.number: item.status for item in items}
    assert status[30] == status[31] == "not filled"  # nothing was corrupted, no map was drawn
    assert status[34] == status[40] == "not filled"
    assert {item.number: item.status for item in checklist(study, evidence | {"robustness": {"a": 1}})}[30] == "filled"


def test_costs_of_every_kind_stand_in_one_table(tmp_path: Path) -> None:
    graphs = {
        "qemu": "qemu 7",
        "models": {"x/scratch.onnx": {"cortex-a76": {"instructions": 12_600_000}, "input": [1]}},
    }
    path = {"about": {"name": "b", "version": "1"}, "cpus": {"cortex-a72": {"whole": 30_140_000}}}
    (tmp_path / "a.json").write_text(json.dumps(graphs))
    (tmp_path / "b.json").write_text(json.dumps(path))
    table = cost_table([load_cost(tmp_path / "a.json"), load_cost(tmp_path / "b.json")], {"scratch": "from scratch"})
    assert table is not None
    assert table["lines"][0] == {"title": "from scratch", "cells": ["12.6 M", "-"]}
    assert table["lines"][1] == {"title": "b 1", "cells": ["-", "30.1 M"]}
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ConfigError, match="is none of what"):
        load_cost(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "{tmp}", "--out", "x.html"], "--data"),
        (["report", "{tmp}", "--out", "x.html", "--data", "."], "is no run's folder"),
        (["report", "{tmp}", "--out", "x.html", "--repeats", "3"], "--repeats 3"),
        (["report", "{tmp}", "--out", "x.html", "--cost", "{tmp}/none.json"], "no JSON"),
        (["corruptions", "{tmp}/none.png", "--out", "{tmp}/x.png"], "not a readable image"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([a.replace("{tmp}", str(tmp_path)) for a in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
