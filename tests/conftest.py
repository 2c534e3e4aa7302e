"""What several tests share: a tiny model whose answer is known, and a broker."""

from __future__ import annotations

import contextlib
import io
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.broker import Broker
from edge.bundle import Artefact, DecisionSpec, InputSpec, Manifest, MapSpec, OutputSpec, write_bundle
from edge.config import Config
from edge.decision import calibrate
from edge.display.service import serve
from edge.pairing.adapter import Adapter
from edge.regions import map_probabilities
from edge.rehearsal import rehearse
from edge.runtime import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import paho.mqtt.client as paho

    from edge.display.server import DisplayServer

SIDE = 64


MAPS = MapSpec(
    labels=["folds", "glottis"],
    stride=8,
    thresholds={"folds": 0.5, "glottis": 0.5},
    smallest_area=0.01,
    smoothing_s=0.1,
)
"""The maps of `redness_model(maps=True)`."""


def redness_model(*, maps: bool = False) -> bytes:
    """logits = (-r, r) with r = how much redder than green and blue the mean colour is, in units of 25 levels.

    With maps: a cell's folds are 2 r - 2, its glottis is how much darker than level 60 it is, in units of 10 levels.
    """
    weights = np.array([[-2.0, 2.0], [1.0, -1.0], [1.0, -1.0]], np.float32) / 50
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])]
    constants = [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(weights, "weights")]
    if maps:
        nodes += [
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Transpose", ["pooled"], ["cells"], perm=[0, 2, 3, 1]),
            helper.make_node("MatMul", ["cells", "cell_weights"], ["unshifted"]),
            helper.make_node("Add", ["unshifted", "shift"], ["maps"]),
        ]
        cell_weights = np.array([[2 / 25, -1 / 30], [-1 / 25, -1 / 30], [-1 / 25, -1 / 30]], np.float32)
        constants.append(numpy_helper.from_array(cell_weights, "cell_weights"))
        constants.append(numpy_helper.from_array(np.array([-2, 6], np.float32), "shift"))
        outputs.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, [1, SIDE // 8, SIDE // 8, 2]))
    graph = helper.make_graph(
        nodes,
        "redness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        outputs,
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_manifest(**changes: object) -> Manifest:
    """A manifest for the redness model; `files` is filled in when it is written."""
    values = {
        "name": "redness",
        "version": "0.0.1",
        "created": "2026-11-21T00:00:00Z",
        "labels": ["no_folds", "folds"],
        "finding": "folds",
        "exclusive": True,
        "input": InputSpec(height=SIDE, width=SIDE),
        "outputs": OutputSpec(),
        "decision": DecisionSpec(
            temperature=1.0, low=0.3, threshold=0.5, high=0.7, smoothing_s=0.2, dwell_s=0.2, expire_s=1.0
        ),
        "artefacts": [
            Artefact(
                name="fp32", format="onnx", precision="fp32", file="fp32.onnx", minimum_runtime="1.20", tolerance=0.001
            )
        ],
        "metrics": [],
        "recipe_sha256": "0" * 64,
        "data_sha256": "0" * 64,
        "licence": "Apache-2.0",
        "research_only": True,
        "attributions": [],
        "files": {},
    }
    return Manifest.model_construct(schema_version=1, **{**values, **changes})


def map_manifest(spec: MapSpec = MAPS, **changes: object) -> Manifest:
    """A manifest for the redness model with maps."""
    artefacts = [a.model_copy(update={"map_tolerance": 0.001}) for a in tiny_manifest().artefacts]
    return tiny_manifest(**{"outputs": OutputSpec(maps=spec), "artefacts": artefacts, **changes})


def tiny_files(*, maps: bool = False) -> dict[str, bytes]:
    """The files of the redness bundle but its manifest."""
    model = redness_model(maps=maps)
    runtime = OnnxRuntime(model, maps="maps" if maps else None)
    inputs = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE, 3), np.uint8)
    inputs[1, ..., 0] //= 2
    scores, seen = [], []
    for image in inputs:
        scores.append(calibrate(runtime.infer(image[None]), 1.0, exclusive=True))
        if runtime.maps is not None:
            seen.append(map_probabilities(runtime.maps, MAPS.temperature))
    golden = io.BytesIO()
    np.savez(golden, inputs=inputs, scores_fp32=np.stack(scores), **({"maps_fp32": np.stack(seen)} if seen else {}))
    return {"fp32.onnx": model, "golden.npz": golden.getvalue(), "MODEL_CARD.md": b"# Redness\n"}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that calls red images folds."""
    path = tmp_path_factory.mktemp("bundle") / "redness.zip"
    write_bundle(path, tiny_manifest(), tiny_files())
    return path


@pytest.fixture(scope="session")
def map_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with maps: red cells are folds, dark ones glottis."""
    path = tmp_path_factory.mktemp("bundle") / "redness-maps.zip"
    write_bundle(path, map_manifest(), tiny_files(maps=True))
    return path


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A real mosquitto, on free loopback ports."""
    with Broker() as running:
        yield running


@dataclass(frozen=True)
class Rehearsed:
    """An adapter with phones: a broker with TLS and accounts, and the page's server, as on a device."""

    config: Config
    broker: Broker
    server: DisplayServer

    @property
    def adapter(self) -> Adapter:
        return Adapter(self.config)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def trust(self) -> ssl.SSLContext:
        """What a phone has that trusts this adapter."""
        return ssl.create_default_context(cadata=self.adapter.authority_certificate().decode())

    def code(self) -> str:
        """The content of a fresh QR code."""
        return self.adapter.pairing_address(self.adapter.registry.new_token())

    def account(self, username: str, password: str, name: str = "") -> paho.Client:
        """A client over native TLS, not yet connected: `connect("127.0.0.1", config.phones.mqtt_port)`."""
        client = self.broker.client(name)
        client.username_pw_set(username, password)
        client.tls_set_context(self.trust)
        return client

    def daemon(self, name: str = "") -> paho.Client:
        """A client with the daemon's account, not yet connected: `connect(broker.host, broker.port)`."""
        client = self.broker.client(name)
        client.username_pw_set("edge", (self.adapter.edge / "password").read_text().strip())
        return client


@contextlib.contextmanager
def rehearsed(folder: Path, **settings: object) -> Iterator[Rehearsed]:
    """An adapter with phones on loopback; its device is adapter-1."""
    config = Config.model_validate({"device": "adapter-1", "state_dir": folder / "state", **settings})
    with contextlib.ExitStack() as stack:
        config, broker = stack.enter_context(rehearse(config, folder / "phones", host="127.0.0.1", address="localhost"))
        yield Rehearsed(config, broker, serve(config, stack))


@pytest.fixture(scope="session")
def rehearse_adapter() -> Callable[..., contextlib.AbstractContextManager[Rehearsed]]:
    """Makes adapters with phones: `with rehearse_adapter(folder) as site`."""
    return rehearsed


@pytest.fixture
def phones(tmp_path: Path) -> Iterator[Rehearsed]:
    """An adapter with phones, of one test's own."""
    with rehearsed(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder with the real images; the test is skipped where it is missing."""
    folder = Path(os.environ.get("FOLDSIGHT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "bagls").is_dir():
        pytest.skip(f"the real images are not here ({folder}); set FOLDSIGHT_DATA to their folder")
    return folder
