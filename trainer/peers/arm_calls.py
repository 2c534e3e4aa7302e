"""Run by `python deploy/emulator --calls`, inside the emulated root: one runtime, one model, one call.

What to run stands in `peer.json` beside this file, the runtime's packages in the folder that it names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
SAID = json.loads((HERE / "peer.json").read_text(encoding="utf-8"))
sys.path.append(SAID["packages"])
IMAGE = np.load(HERE / "image.npy")


def _onnx(name: str) -> Callable[[], object]:
    from edge.runtime import OnnxRuntime  # noqa: PLC0415

    model = OnnxRuntime((HERE / name).read_bytes())
    return lambda: model.infer(IMAGE)


def _ncnn() -> Callable[[], object]:
    import ncnn  # noqa: PLC0415

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(HERE / "body.ncnn.param"))
    net.load_model(str(HERE / "body.ncnn.bin"))
    height, width = IMAGE.shape[1:3]

    def call() -> object:
        pixels = ncnn.Mat.from_pixels(IMAGE[0], ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        pixels.substract_mean_normalize([127.0] * 3, [1 / 128] * 3)
        extractor = net.create_extractor()
        extractor.input("in0", pixels)
        return np.array(extractor.extract("out0")[1])

    return call


def _litert(name: str) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_path=str(HERE / name), num_threads=1)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]
    scores = next(out for out in interpreter.get_output_details() if len(out["shape"]) == 2)  # noqa: PLR2004
    (scale, zero), (step, origin) = given["quantization"], scores["quantization"]
    # An eight-bit input has a scale of its own: one number for each level of a pixel.
    levels = np.arange(256, dtype=np.float32)
    if scale:
        levels = np.clip(np.rint(levels / scale) + zero, -128, 127).astype(np.int8)

    def call() -> object:
        interpreter.set_tensor(given["index"], np.take(levels, IMAGE) if scale else IMAGE.astype(np.float32))
        interpreter.invoke()
        told = interpreter.get_tensor(scores["index"])[0]
        return (told.astype(np.float32) - origin) * step if step else told

    return call


def _openvino(name: str) -> Callable[[], object]:
    import openvino  # noqa: PLC0415

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(str(HERE / name), "CPU", settings)
    request, scores = compiled.create_infer_request(), compiled.output("logits")

    def call() -> object:
        request.infer({0: IMAGE})
        return request.get_tensor(scores).data[0]

    return call


_MAKE: dict[str, Callable[[], Callable[[], object]]] = {
    "onnx-fp32": lambda: _onnx("fp32.onnx"),
    "onnx-int8": lambda: _onnx("int8.onnx"),
    "ncnn": _ncnn,
    "litert-fp32": lambda: _litert("fp32.tflite"),
    "litert-int8": lambda: _litert("int8.tflite"),
    "openvino-fp32": lambda: _openvino("fp32.onnx"),
    "openvino-int8": lambda: _openvino("int8.onnx"),
}
CALL = _MAKE[SAID["peer"]]()
np.save(HERE / "told.npy", np.asarray(CALL()))  # what it answers here, to be compared
CALLS = {SAID["peer"]: CALL}
