"""Segmentation networks: a U-Net over a timm encoder as teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.errors import ConfigError
from trainer._torchvision import ensure_torchvision
from trainer.models import PixelModel, create_backbone
from trainer.segment.targets import CLASSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

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


def _unet(encoder: str, weights: str, decoder: Sequence[int]) -> nn.Module:
    ensure_torchvision()
    import segmentation_models_pytorch as smp  # noqa: PLC0415  after the shim

    classifier = create_backbone(encoder, _IMAGENET_CLASSES, weights)
    try:
        body: nn.Module = smp.Unet(
            f"tu-{encoder}", encoder_weights=None, classes=len(CLASSES), decoder_channels=list(decoder)
        )
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{encoder} cannot be a U-Net's encoder ({reason}); choose another one") from error
    if weights != "none":
        features = body.get_submodule("encoder.model")
        state = classifier.state_dict()
        # Everything but the layers behind the last feature map, which the encoder does not have.
        features.load_state_dict({name: state[name] for name in features.state_dict()}, strict=True)
    return body
