"""One way into every runtime: a model's files made once, then uint8 (1, H, W, 3) RGB in, logits out, on one thread.

Each is asked through its own Python interface, with its own way to make floats of pixels; what that costs counts. These
packages are optional (extra `peers`) and none of them is a part of Foldsight: whoever installs them accepts their
licences, the AGPL of ultralytics among them.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import torch

from edge.errors import FoldsightError
from edge.runtime import OnnxRuntime
from trainer.models import MEAN, SCALE
from trainer.peers.graphs import with_image
from trainer.quantise.aware import AwareBody

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.peers.graphs import Subject

    Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_LIMIT_S = 600


class Peer(NamedTuple):
    """A model in a runtime.

    Attributes:
        runtime: name and precision.
        package: from which it comes.
        infer: uint8 (1, H, W, 3) RGB -> logits (C,).
        same: whether it computes the subject's own function; a network of its own kind does not.
    """

    runtime: str
    package: str
    infer: Infer
    same: bool = True


def onnx_fp32(subject: Subject, folder: Path) -> Peer:
    """ONNX Runtime as edge uses it, the float graph."""
    content = with_image(subject.body)
    (folder / "fp32.onnx").write_bytes(content)
    return Peer("ONNX Runtime FP32", "onnxruntime", OnnxRuntime(content, where="FP32").infer)


def onnx_int8(subject: Subject, folder: Path) -> Peer:
    """ONNX Runtime as edge uses it, the graph that ships."""
    (folder / "int8.onnx").write_bytes(subject.narrow)
    return Peer("ONNX Runtime INT8", "onnxruntime", OnnxRuntime(subject.narrow, where="INT8").infer)


def ncnn_fp32(subject: Subject, folder: Path) -> Peer:
    """Converted by pnnx. On an Arm processor with half-precision arithmetic ncnn uses that by itself."""
    import ncnn  # noqa: PLC0415  optional
    import pnnx  # noqa: PLC0415  optional

    height, width = subject.images.shape[1:3]
    onnx.save_model(subject.body, folder / "body.onnx")
    command = [pnnx.EXEC_PATH, "body.onnx", f"inputshape=[1,3,{height},{width}]f32"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if not (folder / "body.ncnn.param").exists():
        raise FoldsightError(f"pnnx made no ncnn model of {subject.name}: {(done.stderr or done.stdout)[-200:]}")
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(folder / "body.ncnn.param"))
    net.load_model(str(folder / "body.ncnn.bin"))
    means, factors = [float(MEAN)] * 3, [1 / SCALE] * 3

    def infer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = ncnn.Mat.from_pixels(image[0], ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        pixels.substract_mean_normalize(means, factors)
        extractor = net.create_extractor()
        extractor.input("in0", pixels)
        return np.array(extractor.extract("out0")[1], np.float32)

    return Peer("ncnn FP32", "ncnn", infer)


def openvino_fp32(subject: Subject, folder: Path) -> Peer:
    """OpenVINO reads the float ONNX itself."""
    path = folder / "fp32.onnx"
    path.write_bytes(with_image(subject.body))
    return Peer("OpenVINO FP32", "openvino", _openvino(path))


def openvino_int8(subject: Subject, folder: Path) -> Peer:
    """OpenVINO reads the quantised ONNX itself."""
    path = folder / "int8.onnx"
    path.write_bytes(subject.narrow)
    return Peer("OpenVINO INT8", "openvino", _openvino(path))


def _openvino(path: Path) -> Infer:
    import openvino  # noqa: PLC0415  optional

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request, scores = compiled.create_infer_request(), compiled.output("logits")

    def infer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        request.infer({0: image})
        return np.array(request.get_tensor(scores).data[0], np.float32)

    return infer


class _Pixels(torch.nn.Module):
    """A body as LiteRT wants it: float pixels 0..255, channels last."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(1, H, W, 3) -> logits, and maps with channels last."""
        answer = self.body((image.permute(0, 3, 1, 2) - MEAN) / SCALE)
        return (answer[0], answer[1].permute(0, 2, 3, 1)) if isinstance(answer, tuple) else answer


def litert_fp32(subject: Subject, folder: Path) -> Peer:
    """LiteRT with its XNNPACK delegate, converted by litert-torch."""
    path = folder / "fp32.tflite"
    if not path.exists():
        _convert(subject, path)
    return Peer("LiteRT FP32 (XNNPACK)", "ai-edge-litert", _litert(path))


def litert_int8(subject: Subject, folder: Path) -> Peer:
    """LiteRT with its XNNPACK delegate, quantised statically by ai-edge-quantizer on the golden inputs."""
    from ai_edge_quantizer import quantizer, recipe  # noqa: PLC0415  optional

    wide, path = folder / "fp32.tflite", folder / "int8.tflite"
    if not wide.exists():
        _convert(subject, wide)
    if not path.exists():
        work = quantizer.Quantizer(str(wide))
        work.load_quantization_recipe(recipe.static_wi8_ai8())
        name = next(iter(_interpreter(wide).get_signature_runner().get_input_details()))
        data = [{name: image[None].astype(np.float32)} for image in subject.images]
        work.quantize(work.calibrate({"serving_default": data})).export_model(str(path))
    return Peer("LiteRT INT8 (XNNPACK)", "ai-edge-litert", _litert(path))


def _convert(subject: Subject, path: Path) -> None:
    import litert_torch  # noqa: PLC0415  optional

    height, width = subject.images.shape[1:3]
    body = _Pixels(AwareBody(subject.body, subject.body)).eval().requires_grad_(requires_grad=False)
    litert_torch.convert(body, (torch.zeros(1, height, width, 3),)).export(str(path))


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  optional

    return Interpreter(model_path=str(path), num_threads=1)


def _litert(path: Path) -> Infer:
    interpreter = _interpreter(path)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    scores = next(out for out in interpreter.get_output_details() if len(out["shape"]) == 2)  # noqa: PLR2004

    def infer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        interpreter.set_tensor(given["index"], _taken(image, given))
        interpreter.invoke()
        told = interpreter.get_tensor(scores["index"])[0]
        scale, zero = scores["quantization"]
        return np.asarray((told.astype(np.float32) - zero) * scale if scale else told, np.float32)

    return infer


def _taken(image: NDArray[np.uint8], given: dict[str, Any]) -> NDArray[Any]:
    """Pixels as the graph's input is typed: float, or whole numbers of its own scale."""
    scale, zero = given["quantization"]
    if not scale:
        return image.astype(np.float32)
    limits = np.iinfo(given["dtype"])
    whole = np.clip(np.rint(image / np.float32(scale)) + zero, limits.min, limits.max)
    return np.asarray(whole, given["dtype"])


def ultralytics_predict(subject: Subject, folder: Path) -> Peer:  # noqa: ARG001  it makes no file
    """A classification network of ultralytics, untrained, through its own predict call: another network."""
    from trainer._torchvision import ensure_torchvision  # noqa: PLC0415  optional

    ensure_torchvision()
    from ultralytics import YOLO  # noqa: PLC0415  optional

    torch.set_num_threads(1)
    model, side = YOLO("yolo11n-cls.yaml", task="classify"), int(subject.images.shape[1])

    def infer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        (found,) = model.predict(image[0], imgsz=side, verbose=False, device="cpu")
        return np.asarray(found.probs.data[:2], np.float32)

    return Peer("ultralytics yolo11n-cls, predict()", "ultralytics", infer, same=False)


PEERS: dict[str, Callable[[Subject, Path], Peer]] = {
    "onnx-fp32": onnx_fp32,
    "onnx-int8": onnx_int8,
    "ncnn": ncnn_fp32,
    "litert-fp32": litert_fp32,
    "litert-int8": litert_int8,
    "openvino-fp32": openvino_fp32,
    "openvino-int8": openvino_int8,
    "ultralytics": ultralytics_predict,
}


def version(package: str) -> str:
    """Of an installed package."""
    return importlib.metadata.version(package)
