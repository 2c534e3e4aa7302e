"""Further terms in a bundle's own distillation: added up by weight, learnt beside a map, and saved with the run."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from trainer.distil import Distillation  # noqa: E402  after the check for torch
from trainer.laboratory.guides import make_also  # noqa: E402
from trainer.laboratory.terms import Features, Relational  # noqa: E402
from trainer.losses import HardLabels, SoftMaps, SoftTargets  # noqa: E402
from trainer.models import PixelModel, SimpleResNet  # noqa: E402


def test_terms_join_the_divergence_and_the_map() -> None:
    torch.manual_seed(0)
    student, teacher = PixelModel(SimpleResNet(2, (16, 16, 16), (1, 1, 1), maps=2)), PixelModel(SimpleResNet())
    pixels, labels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    hard = HardLabels()
    terms = [Features(loss="fitnets", weight=0.5), Relational(loss="rkd", weight=2.0)]
    also = make_also(terms, student, teacher, pixels, 2, hard)
    task = Distillation(student, teacher, soft=SoftTargets(2.0), hard=hard, soft_weight=0.5, hard_weight=0.25,
                        dense=SoftMaps(), map_weight=3.0, also=also)  # fmt: skip
    found = task(pixels, labels, torch.rand(4, 2, 8, 8))
    weights = {"soft": 0.5, "hard": 0.25, "map": 3.0, "fitnets": 0.5, "rkd": 2.0}
    assert set(found) == {"loss", *weights}
    total = sum(weight * float(found[name]) for name, weight in weights.items())
    assert float(found["loss"].detach()) == pytest.approx(total, rel=1e-5)
    found["loss"].backward()
    assert all(p.grad is not None for p in task.helpers().parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(key.startswith("_also") for key in task.state_dict())
