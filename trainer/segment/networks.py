"""Segmentation networks: a U-Net over a timm encoder as teacher, a tiny plain one as student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from edge.errors import ConfigError
from trainer._torchvision import ensure_torchvision
from trainer.models import MEAN, SCALE, PixelModel, create_backbone
from trainer.segment.targets import CLASSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_IMAGENET_CLASSES = 1000
DECODER = (128, 64, 48, 32, 16)
"""Channels of the decoder from deep to shallow: half of the library's own, at a third of its time on a processor."""


class MapTeacher(PixelModel):
    """A U-Net (Ronneberger et al. 2015, arXiv 1505.04597) over a pretrained encoder, of segmentation-models-pytorch.

    Shapes: uint8 (N, 3, H, W) RGB, sides multiples of 32 -> logits (N, classes, H, W).

    Args:
        encoder: timm's name.
        weights: of the encoder: `hub`, `package`, `none`, or the path of a file.
        side: pixels of the square images that it is trained on and asked about.
        decoder: channels of the decoder.

    Raises:
        ConfigError: there is no such encoder, or it does not halve the image five times.
        FoldsightError: the weights cannot be read or fetched.
    """

    def __init__(self, encoder: str, weights: str, side: int, decoder: Sequence[int] = DECODER) -> None:
        super().__init__(_unet(encoder, weights, decoder))
        self.side = side

    @property
    def channels(self) -> list[int]:
        """Channels of the encoder's levels from half size down."""
        found: Any = self.body.get_submodule("encoder").out_channels
        return list(found)[1:]

    def answer(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the features of every level of the encoder from half size down."""
        body: Any = self.body
        features = body.encoder(normalised(pixels))
        return body.segmentation_head(body.decoder(features)), features[1:]


def _unet(encoder: str, weights: str, decoder: Sequence[int]) -> nn.Module:
    ensure_torchvision()
    import segmentation_models_pytorch as smp  # noqa: PLC0415  after the shim
    import timm  # noqa: PLC0415  after the shim

    if not timm.is_model(encoder):
        raise ConfigError(f"timm has no model {encoder!r}: change the encoder")
    try:
        body: nn.Module = smp.Unet(
            f"tu-{encoder}", encoder_weights=None, classes=len(CLASSES), decoder_channels=list(decoder)
        )
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{encoder} cannot be a U-Net's encoder ({reason}); choose another one") from error
    if weights != "none":
        features = body.get_submodule("encoder.model")
        state = create_backbone(encoder, _IMAGENET_CLASSES, weights).state_dict()
        # Everything but the layers behind the last feature map, which the encoder does not have.
        features.load_state_dict({name: state[name] for name in features.state_dict()}, strict=True)
    return body


class TinyUNet(nn.Module):
    """A U-Net of plain convolutions with a hundredth of the teacher's parameters.

    A 3x3 convolution with batch normalisation and ReLU per level, those below the first with stride 2; on the way up
    the nearest neighbour's value, the level's own features beside it, and one such convolution again.

    Shapes: RGB float (N, 3, H, W), sides multiples of 32 -> logits (N, classes, H, W).

    Args:
        widths: channels of the levels from full size down, multiples of 8: quantised kernels want that.
        up: channels of the way up, from deep to shallow.
        classes: number of classes.
    """

    def __init__(
        self,
        widths: Sequence[int] = (8, 8, 16, 16, 24, 32),
        up: Sequence[int] = (16, 16, 16, 8, 8),
        classes: int = len(CLASSES),
    ) -> None:
        super().__init__()
        if len(up) != len(widths) - 1 or any(width % 8 for width in (*widths, *up)):
            raise ConfigError(
                f"widths {list(widths)} and up {list(up)}: multiples of 8, and one less of up than of widths"
            )
        before = (3, *widths)
        self.down = nn.ModuleList(_block(before[i], width, stride=1 if i == 0 else 2) for i, width in enumerate(widths))
        deeper = (widths[-1], *up)
        self.up = nn.ModuleList(_block(deeper[i] + widths[-2 - i], width, stride=1) for i, width in enumerate(up))
        self.widths = tuple(widths)
        self.head = nn.Conv2d(up[-1], classes, 1)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """The features of every level, (N, widths[i], H / 2^i, W / 2^i)."""
        features = []
        for block in self.down:
            pixels = block(pixels)
            features.append(pixels)
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Logits from the features of every level."""
        x = features[-1]
        for block, skip in zip(self.up, reversed(features[:-1]), strict=True):
            x = block(torch.cat((functional.interpolate(x, scale_factor=2.0, mode="nearest"), skip), dim=1))
        return self.head(x)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits."""
        return self.decode(self.encode(pixels))


class MapStudent(PixelModel):
    """A `TinyUNet` that takes pixels as they are.

    Shapes: uint8 (N, 3, H, W) RGB, sides multiples of 32 -> logits (N, classes, H, W).

    Args:
        widths: channels of the levels from full size down.
        up: channels of the way up, from deep to shallow.
    """

    body: TinyUNet

    def __init__(self, widths: Sequence[int], up: Sequence[int]) -> None:
        super().__init__(TinyUNet(widths, up))

    @property
    def channels(self) -> list[int]:
        """Channels of the levels from half size down."""
        return list(self.body.widths[1:])

    def answer(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the features of every level from half size down."""
        features = self.body.encode(normalised(pixels))
        return self.body.decode(features), features[1:]


def normalised(pixels: Tensor) -> Tensor:
    """What `PixelModel` gives its body."""
    return (pixels.float() - MEAN) / SCALE


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )
