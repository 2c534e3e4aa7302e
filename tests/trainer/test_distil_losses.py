"""Each distillation loss against its formula, computed independently in float64 with numpy and scipy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from scipy.special import expit, softmax

torch = pytest.importorskip("torch")

from trainer import losses  # noqa: E402  after the check for torch
from trainer.losses.feature import same_size, strength  # noqa: E402

N, C = 7, 5
FLAT = (losses.SoftTargets, losses.BernoulliTargets, losses.SoftBinary, losses.LogitError, losses.CorrelatedTargets,
        losses.RelationalDistances, losses.RelationalAngles)  # fmt: skip


def logits(seed: Any, classes: Any = C) -> Any:
    return np.random.default_rng(seed).normal(0, 3, (N, classes))


def maps(seed: Any, channels: Any, side: Any = 4) -> Any:
    return np.random.default_rng(seed).normal(0.5, 1, (N, channels, side, side))


def t(values: Any) -> Any:
    return torch.tensor(values, dtype=torch.float32)


def value(loss: Any, *arguments: Any) -> Any:
    return float(loss(*(t(a) if isinstance(a, np.ndarray) and a.dtype == float else a for a in arguments)).detach())


def bernoulli_kl(q: Any, p: Any) -> Any:
    return q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_bernoulli_targets(temperature: Any) -> None:
    z, its = logits(1), logits(2)
    expected = temperature**2 * bernoulli_kl(expit(its / temperature), expit(z / temperature)).mean()
    assert value(losses.BernoulliTargets(temperature), z, its) == pytest.approx(expected, rel=1e-4)
    assert value(losses.BernoulliTargets(temperature), its, its) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_soft_binary(exclusive: Any, temperature: Any) -> None:
    z, its = logits(1) / temperature, logits(2) / temperature
    p, q = (softmax(z, 1), softmax(its, 1)) if exclusive else (expit(z), expit(its))
    expected = -(temperature**2) * (q * np.log(p) + (1 - q) * np.log(1 - p)).mean()
    found = value(losses.SoftBinary(temperature, exclusive=exclusive), z * temperature, its * temperature)
    assert found == pytest.approx(expected, rel=1e-4)


def test_soft_binary_of_labels_pulls_as_the_bernoulli_divergence_does() -> None:
    gradients = []
    for loss in (losses.SoftBinary(3.0, exclusive=False), losses.BernoulliTargets(3.0)):
        z = t(logits(1)).requires_grad_()
        loss(z, t(logits(2))).backward()
        gradients.append(z.grad)
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("power", [1, 2])
def test_logit_error(power: Any) -> None:
    z, its = logits(1), logits(2)
    assert value(losses.LogitError(power, exclusive=False), z, its) == pytest.approx((abs(z - its) ** power).mean())
    centred = (z - z.mean(1, keepdims=True)) - (its - its.mean(1, keepdims=True))
    exclusive = losses.LogitError(power, exclusive=True)
    assert value(exclusive, z, its) == pytest.approx((abs(centred) ** power).mean(), rel=1e-5)
    assert value(exclusive, z + 5, its - 3) == pytest.approx((abs(centred) ** power).mean(), rel=1e-4)


def test_decoupled_targets() -> None:
    z, its, labels, temperature = logits(1), logits(2), np.random.default_rng(3).integers(0, C, N), 4.0
    expected = 0.0
    for n in range(N):
        p, q = softmax(z[n] / temperature), softmax(its[n] / temperature)
        y, rest = labels[n], np.arange(C) != labels[n]
        expected += 1.5 * bernoulli_kl(q[y], p[y])
        others = q[rest] / q[rest].sum(), p[rest] / p[rest].sum()
        expected += 8 * stats.entropy(*others)
    found = value(losses.DecoupledTargets(temperature, 1.5, 8.0), z, its, torch.tensor(labels))
    assert found == pytest.approx(temperature**2 * expected / N, rel=1e-4)


def test_decoupled_targets_tell_nothing_of_the_others_with_two_classes() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 1])
    z = t(logits(1, 2)).requires_grad_()
    losses.DecoupledTargets(4.0, 0.0, 8.0)(z, t(logits(2, 2)), labels).backward()
    assert float(z.grad.abs().max()) == 0


def test_correlated_targets() -> None:
    z, its = logits(1), logits(2)
    p, q = softmax(z / 2, 1), softmax(its / 2, 1)
    inter = np.mean([1 - stats.pearsonr(p[n], q[n])[0] for n in range(N)])
    intra = np.mean([1 - stats.pearsonr(p[:, c], q[:, c])[0] for c in range(C)])
    found = value(losses.CorrelatedTargets(2.0, 1.5, 0.5), z, its)
    assert found == pytest.approx(4 * (1.5 * inter + 0.5 * intra), rel=1e-4)


def test_between_two_classes_correlation_has_no_gradient() -> None:
    z = t(logits(1, 2)).requires_grad_()
    losses.CorrelatedTargets(1.0, 1.0, 0.0)(z, t(logits(2, 2))).backward()
    assert float(z.grad.abs().max()) < 1e-5


def test_regressed_distances_compare_in_the_teachers_channels() -> None:
    torch.manual_seed(0)
    own, its = maps(1, 3), maps(2, 6)
    for distance, formula in (
        (losses.Hint(), lambda a, b: ((a - b) ** 2).mean()),
        (losses.LayerError(), lambda a, b: abs(a - b).mean()),
        (losses.Wasserstein(), lambda a, b: np.mean([
            stats.wasserstein_distance(a[n, c].ravel(), b[n, c].ravel()) for n in range(N) for c in range(6)])),
        (losses.MapDivergence(2.0), lambda a, b: 4 * np.mean(
            stats.entropy(softmax(b / 2, 1), softmax(a / 2, 1), axis=1))),
    ):  # fmt: skip
        loss = losses.Regressed(distance, 3, 6)
        weight = loss.regressor.map.weight.detach().double().numpy()[..., 0, 0]
        bias = loss.regressor.map.bias.detach().double().numpy()  # type: ignore[union-attr]
        regressed = np.einsum("oc,nchw->nohw", weight, own) + bias[:, None, None]
        assert value(loss, own, its) == pytest.approx(formula(regressed, its), rel=1e-4), distance


def test_attention_transfer() -> None:
    own, its = maps(1, 3), maps(2, 6)

    def attention(f: Any) -> Any:
        flat = (f**2).sum(1).reshape(N, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    expected = ((attention(own) - attention(its)) ** 2).sum(1).mean()
    assert value(losses.AttentionTransfer(), own, its) == pytest.approx(expected, rel=1e-5)
    assert value(losses.AttentionTransfer(), own, own * 3) == pytest.approx(0, abs=1e-6)


def test_maps_of_unlike_size_meet_at_the_smaller() -> None:
    small, large = maps(1, 2, 3), maps(2, 2, 6)
    own, its = same_size(t(small), t(large))
    assert own.shape[2:] == its.shape[2:] == (3, 3)
    assert np.allclose(its, large.reshape(N, 2, 3, 2, 3, 2).mean((3, 5)), atol=1e-6)
    assert strength(t(large)) == pytest.approx(np.sqrt((large**2).mean()), rel=1e-6)


def huber(a: Any, b: Any) -> Any:
    apart = np.abs(a - b)
    return np.where(apart < 1, apart**2 / 2, apart - 0.5)


def test_relational_distances() -> None:
    own, its = logits(1, 4), logits(2, 9)
    off = ~np.eye(N, dtype=bool)
    first, second = (cdist(e, e)[off] for e in (own, its))
    expected = huber(first / first.mean(), second / second.mean()).mean()
    assert value(losses.RelationalDistances(), own, its) == pytest.approx(expected, rel=1e-4)


def test_relational_angles() -> None:
    own, its = logits(1, 4), logits(2, 9)

    def cosine(e: Any, i: Any, j: Any, k: Any) -> Any:
        a, b = e[i] - e[j], e[k] - e[j]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / lengths if lengths else 0.0

    triples = list(itertools.product(range(N), repeat=3))
    expected = np.mean([huber(cosine(own, *abc), cosine(its, *abc)) for abc in triples])
    assert value(losses.RelationalAngles(), own, its) == pytest.approx(expected, rel=1e-4)


def test_similarity_preserving() -> None:
    own, its = maps(1, 3), maps(2, 6, 5)

    def similarity(f: Any) -> Any:
        flat = f.reshape(N, -1)
        gram = flat @ flat.T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    expected = np.linalg.norm(similarity(own) - similarity(its)) ** 2 / N**2
    assert value(losses.SimilarityPreserving(), own, its) == pytest.approx(expected, rel=1e-4)


def test_fusion_is_attention_over_teachers() -> None:
    torch.manual_seed(0)
    fusion = losses.AttentionFusion([3, 6], C, losses.HardLabels(), width=8, heads=2).eval()
    teachers = [logits(1, 3), logits(2, 6)]
    found, weights = (x.detach().double().numpy() for x in fusion.fuse([t(e) for e in teachers]))
    state = {name: p.double().numpy() for name, p in fusion.state_dict().items()}
    tokens = []
    for m, e in enumerate(teachers):
        x = e @ state[f"tokens.{m}.0.weight"].T + state[f"tokens.{m}.0.bias"]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        tokens.append(x * state[f"tokens.{m}.1.weight"] + state[f"tokens.{m}.1.bias"])
    e = np.stack(tokens, 1)
    (wq, wk, wv), (bq, bk, bv) = (np.split(state[f"attention.in_proj_{k}"], 3) for k in ("weight", "bias"))
    query, keys, values = state["query"][0, 0] @ wq.T + bq, e @ wk.T + bk, e @ wv.T + bv
    heads, told = [], []
    for h in (slice(0, 4), slice(4, 8)):
        share = softmax(keys[..., h] @ query[h] / 2, axis=1)
        told.append(share)
        heads.append(np.einsum("nm,nmd->nd", share, values[..., h]))
    out = np.concatenate(heads, 1) @ state["attention.out_proj.weight"].T + state["attention.out_proj.bias"]
    assert np.allclose(found, out + e.mean(1), atol=1e-5)
    assert np.allclose(weights, np.mean(told, 0), atol=1e-6)


def test_fusion_teaches_the_student_and_is_taught_by_the_labels_alone() -> None:
    torch.manual_seed(0)
    fusion = losses.AttentionFusion([3, 6], C, losses.HardLabels(), width=8, heads=2)
    labels, own = torch.arange(N) % C, t(logits(3, 4)).requires_grad_()
    teachers = [t(logits(1, 3)), t(logits(2, 6))]
    fusion(own, teachers, labels).backward()
    assert own.grad.abs().sum() > 0
    whole = {name: p.grad.clone() for name, p in fusion.named_parameters()}
    fusion.zero_grad()
    losses.HardLabels()(fusion.classifier(fusion.fuse(teachers)[0]), labels).backward()
    assert all(torch.allclose(whole[name], p.grad) for name, p in fusion.named_parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hard_sets(smoothing: Any) -> None:
    z, y = logits(1), np.random.default_rng(2).integers(0, 2, (N, C)).astype(float)
    q, p = (1 - smoothing) * y + smoothing / 2, expit(z)
    expected = -(q * np.log(p) + (1 - q) * np.log(1 - p)).mean()
    assert value(losses.HardSets(smoothing), z, y) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [
    losses.SoftTargets(2.0), losses.BernoulliTargets(2.0), losses.SoftBinary(2.0, exclusive=True),
    losses.LogitError(2, exclusive=True), losses.CorrelatedTargets(), losses.Hint(), losses.Wasserstein(),
    losses.MapDivergence(), losses.LayerError(), losses.AttentionTransfer(), losses.RelationalDistances(),
    losses.RelationalAngles(), losses.SimilarityPreserving(),
], ids=lambda loss: type(loss).__name__)  # fmt: skip
def test_no_gradient_reaches_the_teacher(loss: Any) -> None:
    shape = (N, C) if isinstance(loss, FLAT) else (N, C, 3, 3)
    own, its = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    loss(own, its).backward()
    assert its.grad is None
    assert bool(torch.isfinite(own.grad).all())  # type: ignore[arg-type]
    assert float(own.grad.abs().sum()) > 0  # type: ignore[union-attr]
