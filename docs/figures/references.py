"""Writes untrained INT8 graphs of reference networks, to be counted (docs/cost.md): `references.py FOLDER`.

Weights do not change how many instructions run; shapes do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch

from trainer.models import SimpleResNet, create_backbone
from trainer.onnx_export import export_body
from trainer.quantise import quantise
from trainer.recipe import QuantiseSettings

FAMILY = (
    ((16, 16, 32, 64), (1, 1, 1, 1)),
    ((16, 32, 64, 128), (1, 1, 1, 1)),
    ((16, 32, 64, 96), (1, 1, 2, 2)),
    ((16, 32, 64, 128), (1, 1, 2, 2)),
    ((16, 32, 96, 160), (1, 1, 2, 2)),
    ((16, 32, 64, 128), (2, 2, 2, 2)),
)
"""Widths and blocks of the students that docs/cost.md sets against each other; with a map, as they ship."""


def write(folder: Path, name: str, body: torch.nn.Module, side: int) -> None:
    """Export, quantise on noise, save."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(4)]
    graph = export_body(body, side, side)
    onnx.save_model(quantise(graph, noise, QuantiseSettings(method="minmax")), folder / f"{name}.onnx")


def main(folder: Path) -> None:
    """Write them all."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    small = SimpleResNet(widths=(16, 32, 64, 160), blocks=(1, 1, 2, 1))
    write(folder, "mobilenetv2-224", create_backbone("mobilenetv2_100", 2, "none"), 224)
    write(folder, "resnet-2222-224", SimpleResNet(), 224)
    write(folder, "resnet-1121-w160-224", small, 224)
    write(folder, "resnet-2222-160", SimpleResNet(), 160)
    for widths, blocks in FAMILY:
        name = "-".join(map(str, widths)) + "_" + "-".join(map(str, blocks))
        write(folder, f"student-{name}", SimpleResNet(widths=widths, blocks=blocks, maps=2), 160)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the graphs go")
    main(parser.parse_args().folder)
