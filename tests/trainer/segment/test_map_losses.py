"""Each distance between maps against its formula in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trainer.losses import maps  # noqa: E402  after the check for torch


def pair(seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (2, 3, 5, 4)), rng.normal(0, 3, (2, 3, 5, 4))


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def chance_entropy(s: Any, t: Any) -> Any:
    p, q = softmax(s), softmax(t)
    return -(q * np.log(p) + (1 - q) * np.log1p(-p)).mean()


def divergence(temperature: float) -> Any:
    def of(s: Any, t: Any) -> Any:
        p, q = softmax(s / temperature), softmax(t / temperature)
        return temperature**2 * (q * (np.log(q) - np.log(p))).sum(axis=1).mean()

    return of


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (maps.SquaredError(), lambda s, t: ((s - t) ** 2).mean()),
        (maps.SquaredErrorOfChances(), lambda s, t: ((softmax(s) - softmax(t)) ** 2).mean()),
        (maps.Divergence(), divergence(1)),
        (maps.Divergence(4), divergence(4)),
        (maps.CrossEntropyOfChances(), chance_entropy),
        (maps.AbsoluteError(), lambda s, t: np.abs(s - t).mean()),
    ],
)
def test_a_loss_is_its_formula_and_sends_the_teacher_nothing(loss: Any, formula: Any) -> None:
    student, teacher = pair()
    z, t = torch.tensor(student, requires_grad=True), torch.tensor(teacher, requires_grad=True)
    found = loss(z, t)
    assert float(found.detach()) == pytest.approx(formula(student, teacher), rel=1e-4)
    found.backward()
    assert t.grad is None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", [maps.SquaredError(), maps.SquaredErrorOfChances(), maps.Divergence(2),
                                  maps.AbsoluteError()])  # fmt: skip
def test_the_teacher_itself_has_no_distance(loss: Any) -> None:
    answer = torch.randn(2, 3, 4, 4)
    assert float(loss(answer, answer)) == pytest.approx(0, abs=1e-6)
