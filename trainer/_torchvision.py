"""Makes torchvision importable next to a torch it was not built for.

A torchvision wheel with CUDA operators beside a CPU-only torch cannot load its compiled library; the import then stops
at `operator torchvision::nms does not exist` and takes timm and torchmetrics with it. Foldsight needs neither operator,
so on that error alone their names are declared and the import goes on.
"""

from __future__ import annotations

import importlib
import sys

_OPERATORS = ("nms", "qnms")
_keep_alive: list[object] = []  # a library's definitions go when its object does


def ensure_torchvision() -> None:
    """Import torchvision, declaring its missing operators where need be. Call before importing timm or torchmetrics."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # not installed: timm says so itself, in its own words
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        import torch  # noqa: PLC0415  only here, so that the command line stays fast

        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _keep_alive.append(library)
        importlib.import_module("torchvision")
