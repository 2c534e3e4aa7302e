"""Model input in, scores and maps out. One file per runtime; `open_runtime` picks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edge.runtime.ncnn import load_ncnn
from edge.runtime.onnx import OnnxRuntime, onnx_version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.bundle import Artefact, Bundle

__all__ = ["OnnxRuntime", "Runtime", "onnx_version", "open_runtime"]


class Runtime(Protocol):
    """What runs a model."""

    @property
    def description(self) -> str:
        """Runtime, version, processor."""
        ...

    @property
    def maps(self) -> NDArray[np.float32] | None:
        """The last inference's map logits float32 (rows, columns, labels), valid until the next; None without maps."""
        ...

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (labels,) of one image uint8 (1, height, width, 3) RGB; valid until the next call."""
        ...


def open_runtime(bundle: Bundle, artefact: Artefact, *, threads: int = 1) -> Runtime:
    """Load an artefact of a bundle: ncnn's form by ncnn, any graph by ONNX Runtime.

    Raises:
        BundleError: the runtime cannot load it, or it has another input or output than the manifest says.
        EngineError: ncnn is missing, or cannot load it.
    """
    if artefact.runtime == "ncnn":
        return load_ncnn(bundle, artefact, threads=threads)
    spec, maps = bundle.manifest.input, bundle.manifest.outputs.maps
    return OnnxRuntime(
        bundle.files[artefact.file],
        where=f"{bundle.path}: {artefact.file}",
        shape=(1, spec.height, spec.width, 3),
        scores=bundle.manifest.outputs.scores,
        labels=len(bundle.manifest.labels),
        maps=None if maps is None else maps.output,
        map_shape=bundle.manifest.map_shape,
        threads=threads,
    )
