"""Model input in, scores out. One file per runtime; `open_runtime` picks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edge.runtime.onnx import OnnxRuntime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.bundle import Artefact, Bundle

__all__ = ["OnnxRuntime", "Runtime", "open_runtime"]


class Runtime(Protocol):
    """What runs a model."""

    description: str

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (labels,) of one image uint8 (1, height, width, 3) RGB; valid until the next call."""
        ...


def open_runtime(bundle: Bundle, artefact: Artefact, *, threads: int = 1) -> Runtime:
    """Load an artefact of a bundle.

    Raises:
        BundleError: the runtime cannot load it, or it has another input or output than the manifest says.
    """
    spec = bundle.manifest.input
    return OnnxRuntime(
        bundle.files[artefact.file],
        where=f"{bundle.path}: {artefact.file}",
        shape=(1, spec.height, spec.width, 3),
        scores=bundle.manifest.outputs.scores,
        labels=len(bundle.manifest.labels),
        threads=threads,
    )
