"""Feature maps of any network, taken by hooks on its modules: models stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from typing_extensions import Self

LEVELS = 3
"""How many levels distillation looks at where nothing else is said: the deepest, strides 8, 16 and 32 as a rule."""


class Probe:
    """What chosen modules answered during the last forward pass within `with probe:`.

    Not a module itself and not in any state: a network with a probe is saved and copied as one without.

    Args:
        network: the network.
        layers: names of its modules whose outputs are maps (N, C, h, w).

    Raises:
        ConfigError: it has no such module.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        self.layers, self._open = tuple(layers), False
        self._taken: dict[str, Tensor] = {}
        for name in self.layers:
            try:
                module = network.get_submodule(name)
            except AttributeError as error:
                known = ", ".join(n for n, _ in list(network.named_modules())[1:8])
                raise ConfigError(f"the network has no layer {name!r}; its first are {known}") from error
            module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def take(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if self._open:
                self._taken[name] = output

        return take

    def __enter__(self) -> Self:
        self._taken.clear()
        self._open = True
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False

    @property
    def features(self) -> list[Tensor]:
        """The maps, in the order of the layers; they are given up: a second call has none."""
        taken = [self._taken[name] for name in self.layers]
        self._taken.clear()
        return taken


class Pooled:
    """What the classifier of a network was given during the last forward pass within `with pooled:`: (N, F).

    The classifier is the network's last linear layer; with dropout before it, the features are those it left.

    Args:
        network: the network.

    Attributes:
        features: F.

    Raises:
        ConfigError: it has no linear layer.
    """

    def __init__(self, network: nn.Module) -> None:
        linear = last_linear(network)
        if linear is None:
            raise ConfigError(
                "the network ends in no linear layer, so nothing tells its pooled features: set adversary to 0"
            )
        self.features, self._open = linear.in_features, False
        self._taken: Tensor | None = None
        linear.register_forward_pre_hook(self._take)

    def _take(self, _module: nn.Module, inputs: Any) -> None:
        if self._open:
            self._taken = inputs[0].flatten(1)

    def __enter__(self) -> Self:
        self._taken, self._open = None, True
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False

    def take(self) -> Tensor:
        """The features; they are given up."""
        taken, self._taken = self._taken, None
        if taken is None:
            raise ConfigError("the network did not use its last linear layer: set adversary to 0")
        return taken


def last_linear(network: nn.Module) -> nn.Linear | None:
    """The classifier of a network: its last linear layer."""
    found = None
    for module in network.modules():
        found = module if isinstance(module, nn.Linear) else found
    return found


def only_logits(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits (N, C) of a network that answers with them alone, or first of several."""
    return answer[0] if isinstance(answer, tuple) else answer


def last_map(network: nn.Module, example: Tensor) -> str:
    """Name of the last module, in order of computation, with a map (N, C, h, w) on which the logits depend.

    Args:
        network: takes the example; as it is, training or not.
        example: uint8 (1, 3, H, W).

    Raises:
        ValueError: it has no such module.
    """
    seen: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:  # noqa: PLR2004
                seen.append((name, output))

        return note

    handles = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if name]
    try:
        with torch.enable_grad():
            logits = only_logits(network(example))
            usable = [(name, output) for name, output in seen if output.requires_grad]
            outputs = [output for _, output in usable]
            slopes = torch.autograd.grad(logits.sum(), outputs, allow_unused=True) if outputs else ()
    finally:
        for handle in handles:
            handle.remove()
    found = [name for (name, _), slope in zip(usable, slopes, strict=True) if slope is not None]
    if not found:
        msg = "the network has no layer with a spatial extent: there is nothing to map"
        raise ValueError(msg)
    return found[-1]


def feature_layers(body: nn.Module, prefix: str = "") -> list[str]:
    """The modules that distillation looks at where a recipe names none: `LEVELS` of them, from shallow to deep.

    Args:
        body: ours, one of timm's, or one with an attribute `feature_layers` of its own.
        prefix: put before the names.

    Raises:
        ConfigError: nothing tells its layers.
    """
    own = getattr(body, "feature_layers", None)
    if own is None and hasattr(body, "feature_info"):
        own = [level["module"] for level in body.feature_info]  # type: ignore[union-attr]
    if not own:
        raise ConfigError(
            f"{type(body).__name__} does not say which layers hold its features: name them (layers), or give it an "
            "attribute feature_layers"
        )
    return [prefix + name for name in list(own)[-LEVELS:]]


def feature_shapes(network: nn.Module, layers: Sequence[str], side: int) -> list[tuple[int, int, int]]:
    """Shapes (C, h, w) of the layers' maps for a square uint8 picture of this side.

    Raises:
        ConfigError: a layer answers with something else than a map.
    """
    training, probe = network.training, Probe(network, layers)
    network.eval()
    with torch.no_grad(), probe:
        network(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    found = probe.features
    network.train(training)
    for name, features in zip(layers, found, strict=True):
        if not isinstance(features, torch.Tensor) or features.ndim != 4:  # noqa: PLR2004
            raise ConfigError(f"layer {name} answers with no map (N, C, h, w): choose another one")
    return [(f.shape[1], f.shape[2], f.shape[3]) for f in found]
