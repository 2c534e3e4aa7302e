"""Training that does not trust sources: the losses of `trainer.losses.distrust`, joined as a recipe's `robust` says."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from edge.errors import ConfigError
from trainer.losses import GroupRobust, SourceAdversary, TwinMargin
from trainer.models import Pooled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from trainer.distil import Beside
    from trainer.recipe import RobustSettings


class Distrust(nn.Module):
    """What a task learns beside its own loss, so that it does not learn where a picture comes from.

    L = base + adversary + twins * twin, where base is the mean of the images' own losses, or their group-robust sum.

    Args:
        settings: the recipe's.
        records: source of each record that a sample may be made from.
        cells: by label the sources of the records that samples with this label are made from.
        model: whose pooled features the adversary sees.
        finding: the label's index.
        twins: whether the stream shows any.
        seed: of the adversary's heads.

    Raises:
        ConfigError: a setting has nothing to work on.
    """

    table: Tensor

    def __init__(
        self,
        settings: RobustSettings,
        records: Sequence[str],
        cells: Mapping[int, Sequence[str]],
        model: nn.Module,
        finding: int,
        *,
        twins: bool,
        seed: int,
    ) -> None:
        super().__init__()
        names = sorted({name for told in cells.values() for name in told})
        require_sources(settings, names)
        self.weight, self._labels = settings.twins, len(cells)
        # Follows from the data: not in the checkpoint.
        place = torch.tensor([names.index(name) if name in names else -1 for name in records])
        self.register_buffer("table", place, persistent=False)
        self.robust = self.adversary = self.margin = self._pooled = None
        if settings.group_dro:
            found = sorted((names.index(name), label) for label, told in cells.items() for name in told)
            self.groups = {f"{names[source]}_{label}": i for i, (source, label) in enumerate(found)}
            numbers = torch.full((len(names) + 1, len(cells)), -1)  # the last row is of no source
            for i, (source, label) in enumerate(found):
                numbers[source, label] = i
            self.register_buffer("numbers", numbers, persistent=False)
            self.robust = GroupRobust(len(found), settings.group_dro)
        if settings.adversary:
            told = {label: [names.index(name) for name in found] for label, found in cells.items()}
            self._pooled = Pooled(model)
            with torch.random.fork_rng(devices=[]):  # what the model draws stays what it is without
                torch.manual_seed(seed)
                self.adversary = SourceAdversary(self._pooled.features, told, settings.adversary)
            if not self.adversary.sources:
                raise ConfigError(
                    f"robust.adversary is {settings.adversary:g}, but every label has a single source, so that to hide "
                    "the source would be to hide the label: give a label a second source, or set it to 0"
                )
        if settings.twins:
            if not twins:
                raise ConfigError(
                    f"robust.twins is {settings.twins:g}, but the stream shows no twins: set augment.twins above 0 and "
                    "give images of folds with masks, or set robust.twins to 0"
                )
            self.margin = TwinMargin(settings.twin_margin, finding)

    @property
    def together(self) -> int:
        """How many images in a row one process must see: twins are two."""
        return 1 if self.margin is None else 2

    def watch(self) -> AbstractContextManager[object]:
        """Within this the model must answer, so that the adversary sees its features."""
        return nullcontext() if self._pooled is None else self._pooled

    def forward(self, each: Tensor, logits: Tensor, labels: Tensor, beside: Beside | None) -> dict[str, Tensor]:
        """The `loss` and its terms before weighting, and each group's weight as `group_SOURCE_LABEL`.

        Args:
            each: (N,), the task's own loss of every image.
            logits: (N, C).
            labels: int64 (N,).
            beside: what else is known of the batch.
        """
        if beside is None:
            raise TypeError("beside")
        sources = self.table[beside.origins]
        terms: dict[str, Tensor] = {}
        if self.robust is None:
            loss = each.mean()
        else:
            loss = terms["group_dro"] = self.robust(each, self.get_buffer("numbers")[sources, labels])
            weights = self.robust.weights
            terms |= {f"group_{name}": weights[i] for name, i in self.groups.items()}
        if self.adversary is not None and self._pooled is not None:
            terms["adversary"] = self.adversary(self._pooled.take(), labels, sources, beside.progress)
            loss = loss + terms["adversary"]
        if self.margin is not None:
            terms["twin"] = self.margin(logits, labels, beside.origins)
            loss = loss + self.weight * terms["twin"]
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


def require_sources(settings: RobustSettings, sources: Sequence[str]) -> None:
    """Refuse what needs several sources where there is one.

    Raises:
        ConfigError: says which setting, and why.
    """
    for name in ("group_dro", "adversary"):
        if getattr(settings, name) and len(set(sources)) < 2:  # noqa: PLR2004
            told = ", ".join(sorted(set(sources))) or "none"
            raise ConfigError(
                f"robust.{name} is {getattr(settings, name):g}, but all training images are of one source ({told}): "
                "there is nothing to tell apart; give a second source, or set it to 0"
            )
