"""The student: a plain residual net made for INT8 on small Arm cores.

Only 3x3 and 1x1 convolutions, batch normalisation (folded away on export), ReLU and additions: each has a fast
quantised kernel, so the INT8 graph has no float island. Widths are multiples of 16, which those kernels want.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


MAP_STRIDE = 8
"""Input pixels per cell of a map."""
_MAP_STAGE = 2  # its stride is 16
_RARE = -2.0  # the map's first answer everywhere: most cells show nothing


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016, arXiv 1512.03385); 1x1 on the shortcut where shapes differ.

    Shapes: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_bn(inputs, outputs, 3, stride)
        self.second = _conv_bn(outputs, outputs, 3, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv_bn(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        out: Tensor = self.second(self.relu(self.first(x)))
        return self.relu(out + self.shortcut(x))  # type: ignore[no-any-return]


class MapHead(nn.Sequential):
    """Where things are: map logits of twice the resolution of the features that it reads.

    Each feature cell answers for the 2x2 cells that it covers (sub-pixel convolution, Shi et al. 2016, arXiv
    1609.05158): so the map has half the features' stride for the price of a map at their own.

    Shapes: (N, inputs, h, w) -> (N, labels, 2h, 2w).
    """

    def __init__(self, inputs: int, labels: int, width: int = 32) -> None:
        last = nn.Conv2d(width, 4 * labels, 1)
        nn.init.zeros_(last.weight)
        last.bias = nn.Parameter(torch.full((4 * labels,), _RARE))
        super().__init__(*_conv_bn(inputs, width, 3, 1), nn.ReLU(), last, nn.PixelShuffle(2))


class SimpleResNet(nn.Module):
    """Stem, one stage of residual blocks per width, mean over the map, linear classifier.

    The stem's stride and that of every stage are 2: a stride costs nothing where a pooling layer after the stem would.
    A 160x160 image leaves the stem as 80x80 and the last of four stages as 5x5.

    Args:
        classes: number of logits.
        widths: channels of each stage; multiples of 16. The first is the stem's as well.
        blocks: residual blocks of each stage.
        dropout: share of pooled features dropped in training.
        maps: labels of a map of stride `MAP_STRIDE`, read from the stage of twice that stride; 0 for no map.
    """

    def __init__(
        self,
        classes: int = 2,
        widths: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2, 2),
        dropout: float = 0.0,
        maps: int = 0,
    ) -> None:
        super().__init__()
        if maps and len(widths) <= _MAP_STAGE:
            msg = f"widths {list(widths)}: a map needs at least {_MAP_STAGE + 1} stages"
            raise ValueError(msg)
        if len(widths) != len(blocks) or any(w % 16 for w in widths):
            msg = f"widths {list(widths)} must be multiples of 16, one per entry of blocks {list(blocks)}"
            raise ValueError(msg)
        self.feature_layers = tuple(f"stages.{i}" for i in range(len(widths)))
        self.stem = nn.Sequential(*_conv_bn(3, widths[0], 3, 2), nn.ReLU())
        stages = []
        inputs = widths[0]
        for width, count in zip(widths, blocks, strict=True):
            first = BasicBlock(inputs, width, 2)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(count - 1))))
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # Made last, so that the rest begins with the same weights with a map and without.
        self.map_head = MapHead(widths[_MAP_STAGE], maps) if maps else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Normalised RGB float (N, 3, H, W) -> logits (N, classes); with them map logits (N, maps, H / 8, W / 8)."""
        x = self.stem(x)
        seen = x
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == _MAP_STAGE:
                seen = x
        # A pooling node, since a mean would be an island of floats in the quantised graph.
        features = functional.avg_pool2d(x, x.shape[-2:]).flatten(1)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits if self.map_head is None else (logits, self.map_head(seen))
