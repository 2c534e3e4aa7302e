"""Graphs for the comparison: the shipped model with its rounding and without, and MobileNetV2 at its input size."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import onnx
import torch

from edge.bundle import Bundle
from trainer.models import create_backbone
from trainer.ncnn_export import without_rounding
from trainer.onnx_export import export_body, with_image_input
from trainer.quantise import Static, Way
from trainer.recipe import QuantiseSettings

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

REFERENCE = "mobilenetv2_100"


class Subject(NamedTuple):
    """A model to run everywhere.

    Attributes:
        name: what the table calls it.
        body: float graph, `pixels` float32 (1, 3, H, W) -> `logits`, and `maps` where it has them.
        narrow: INT8 graph with the device's input.
        images: golden inputs uint8 (n, H, W, 3) RGB.
        temperature: of its scores.
    """

    name: str
    body: onnx.ModelProto
    narrow: bytes
    images: NDArray[np.uint8]
    temperature: float


def shipped(path: Path) -> Subject:
    """A bundle's primary INT8 model; its float form is the same weights without any rounding of activations."""
    bundle = Bundle.open(path, golden=False)
    artefact = bundle.artefact("int8")
    images, _ = bundle.golden(artefact)
    narrow = bundle.files[artefact.file]
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    body = without_rounding(onnx.load_from_string(narrow))
    return Subject(name, body, narrow, images, bundle.manifest.decision.temperature)


def reference(images: NDArray[np.uint8], body: Path | None = None) -> Subject:
    """MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) at the same input size.

    Args:
        images: uint8 (n, H, W, 3) RGB: what it is asked, and what its ranges come from.
        body: a trained float graph; without one the weights are drawn, which changes no instruction and no time.
    """
    height, width = images.shape[1:3]
    if body is None:
        torch.manual_seed(0)
        graph = export_body(create_backbone(REFERENCE, 2, "none").eval(), height, width)
        name = "MobileNetV2, untrained"
    else:
        graph, name = onnx.load_model(body), "MobileNetV2"
    narrow = Static(graph, images, QuantiseSettings(images=len(images))).model(Way())
    return Subject(name, graph, narrow.SerializeToString(), images, 1.0)


def with_image(body: onnx.ModelProto) -> bytes:
    """A float graph with the device's input, uint8 (1, H, W, 3)."""
    return bytes(with_image_input(body).SerializeToString())
