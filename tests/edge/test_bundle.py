from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MAPS, map_manifest, tiny_files, tiny_manifest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.bundle import Bundle, MapSpec, write_bundle
from edge.config import COMMITTED_BUNDLE
from edge.errors import BundleError
from edge.runtime import open_runtime


def rewrite(source: Path, target: Path, change: dict[str, bytes | None]) -> Path:
    """Copy a bundle with some members replaced, added, or (None) left out."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members.update({k: v for k, v in change.items() if v is not None})
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            if change.get(name, b"") is not None:
                archive.writestr(name, content)
    return target


def golden_with(files: dict[str, bytes], **arrays: np.ndarray) -> dict[str, bytes]:
    """The files with some golden arrays replaced or added."""
    with np.load(io.BytesIO(files["golden.npz"])) as golden:
        kept = dict(golden)
    out = io.BytesIO()
    np.savez(out, **{**kept, **arrays})
    return {**files, "golden.npz": out.getvalue()}


def manifest_of(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as archive:
        loaded: dict[str, object] = json.loads(archive.read("manifest.json"))
        return loaded


def test_a_bundle_opens_and_gives_its_golden_outputs(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.manifest.labels == ["no_folds", "folds"]
    assert bundle.check_golden(bundle.manifest.artefacts[0]) <= 0.001
    assert not bundle.signed


def test_a_smaller_model_is_never_taken_for_the_primary_one(tmp_path: Path) -> None:
    full = tiny_manifest().artefacts[0]
    small = full.model_copy(update={"name": "small", "role": "smaller", "precision": "int8"})
    write_bundle(tmp_path / "two.zip", tiny_manifest(artefacts=[small, full]), tiny_files())
    two = Bundle.open(tmp_path / "two.zip", golden=False)
    assert (two.artefact(), two.smaller(), two.smaller("fp32")) == (full, small, small)
    with pytest.raises(BundleError, match="has no int8 model, only fp32"):
        two.artefact("int8")
    write_bundle(tmp_path / "one.zip", tiny_manifest(), tiny_files())
    assert Bundle.open(tmp_path / "one.zip").smaller() is None
    with pytest.raises(ValueError, match="no artefact is of the role primary"):
        write_bundle(tmp_path / "none.zip", tiny_manifest(artefacts=[small]), tiny_files())


def test_a_graph_for_tensorrt_is_taken_only_when_asked_for(tmp_path: Path) -> None:
    cpu = tiny_manifest().artefacts[0]
    gpu = cpu.model_copy(update={"name": "trt", "runtime": "tensorrt", "precision": "int8", "file": "broken.onnx"})
    files = {**tiny_files(), "broken.onnx": b"ONNX Runtime could not load this"}
    write_bundle(tmp_path / "both.zip", tiny_manifest(artefacts=[gpu, cpu]), files)
    both = Bundle.open(tmp_path / "both.zip")  # and need not
    assert (both.artefact(), both.artefact("auto", "tensorrt"), both.smaller()) == (cpu, gpu, None)
    with pytest.raises(BundleError, match="has no int8 model, only fp32: set"):
        both.artefact("int8")
    with pytest.raises(BundleError, match="has no fp32 model for TensorRT, only int8"):
        both.artefact("fp32", "tensorrt")
    with pytest.raises(ValueError, match="primary for ONNX Runtime, which every device has"):
        write_bundle(tmp_path / "one.zip", tiny_manifest(artefacts=[gpu]), files)
    write_bundle(tmp_path / "old.zip", tiny_manifest(), tiny_files())
    with pytest.raises(BundleError, match="has no model for TensorRT: set"):
        Bundle.open(tmp_path / "old.zip").artefact("auto", "tensorrt")


def test_a_manifest_that_names_no_runtime_means_onnx_runtime(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest: dict[str, Any] = manifest_of(tiny_bundle)
    assert manifest["artefacts"][0].pop("runtime") == "onnxruntime"
    path = rewrite(tiny_bundle, tmp_path / "o.zip", {"manifest.json": json.dumps(manifest).encode()})
    assert Bundle.open(path).artefact().runtime == "onnxruntime"


def test_equal_content_makes_an_equal_file(tiny_bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    write_bundle(again, tiny_manifest(), tiny_files())
    with zipfile.ZipFile(again) as a, zipfile.ZipFile(tiny_bundle) as b:
        names = set(a.namelist()) - {"golden.npz", "manifest.json"}  # numpy stamps its archive with the time
        assert all(a.read(n) == b.read(n) for n in names)


@pytest.mark.parametrize("member", ["fp32.onnx", "golden.npz", "MODEL_CARD.md"])
def test_a_flipped_byte_is_found(tiny_bundle: Path, tmp_path: Path, member: str) -> None:
    content = bytearray(tiny_files()[member] if member != "golden.npz" else Bundle.open(tiny_bundle).files[member])
    content[len(content) // 2] ^= 1
    broken = rewrite(tiny_bundle, tmp_path / "b.zip", {member: bytes(content)})
    with pytest.raises(BundleError, match=f"{member} is damaged"):
        Bundle.open(broken)


def test_a_flipped_byte_anywhere_in_the_file_is_found_or_harmless(tiny_bundle: Path, tmp_path: Path) -> None:
    raw, whole = tiny_bundle.read_bytes(), Bundle.open(tiny_bundle)
    for position in range(0, len(raw), max(1, len(raw) // 150)):
        content = bytearray(raw)
        content[position] ^= 0x40
        path = tmp_path / "b.zip"
        path.write_bytes(content)
        try:
            bundle = Bundle.open(path, golden=False)
        except BundleError:
            continue
        assert bundle.sha256 == whole.sha256  # a byte that says nothing, such as a time stamp
        assert bundle.files["fp32.onnx"] == whole.files["fp32.onnx"]


def test_truncation_at_any_length_is_found(tiny_bundle: Path, tmp_path: Path) -> None:
    raw = tiny_bundle.read_bytes()
    for length in range(0, len(raw), max(1, len(raw) // 50)):
        path = tmp_path / "b.zip"
        path.write_bytes(raw[:length])
        with pytest.raises(BundleError):
            Bundle.open(path)


def test_a_missing_file_an_extra_file_and_no_file_at_all(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"fp32.onnx is missing"):
        Bundle.open(rewrite(tiny_bundle, tmp_path / "m.zip", {"fp32.onnx": None}))
    with pytest.raises(BundleError, match=r"extra.bin is not listed"):
        Bundle.open(rewrite(tiny_bundle, tmp_path / "e.zip", {"extra.bin": b"x"}))
    with pytest.raises(BundleError, match="is not there"):
        Bundle.open(tmp_path / "none.zip")


def test_a_newer_schema_says_update(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = {**manifest_of(tiny_bundle), "schema_version": 2}
    path = rewrite(tiny_bundle, tmp_path / "n.zip", {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match="reads up to 1: update"):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("finding", "polyp", "is not one of the labels"),
        ("version", "one", "version"),
        ("surprise", 1, "surprise"),
        ("files", {}, "no hash for"),
        ("labels", ["folds"], "labels"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_key(
    tiny_bundle: Path, tmp_path: Path, key: str, value: object, words: str
) -> None:
    manifest = {**manifest_of(tiny_bundle), key: value}
    path = rewrite(tiny_bundle, tmp_path / "w.zip", {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match=words):
        Bundle.open(path)


def test_wrong_golden_outputs_are_refused(tmp_path: Path) -> None:
    files = tiny_files()
    with np.load(io.BytesIO(files["golden.npz"])) as arrays:
        scores = arrays["scores_fp32"]
    path = tmp_path / "g.zip"
    write_bundle(path, tiny_manifest(), golden_with(files, scores_fp32=scores + np.array([0.01, -0.01], np.float32)))
    with pytest.raises(BundleError, match="other scores on this machine"):
        Bundle.open(path)
    assert Bundle.open(path, golden=False).manifest.name == "redness"


def test_a_model_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    write_bundle(path, tiny_manifest(), {**tiny_files(), "fp32.onnx": b"not a model"})
    with pytest.raises(BundleError, match="cannot be loaded by ONNX Runtime"):
        Bundle.open(path)


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    write_bundle(path, tiny_manifest(), tiny_files())
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="No space"):
        write_bundle(path, tiny_manifest(), tiny_files())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_trusted_signature_counts_where_keys_are_given(tiny_bundle: Path, tmp_path: Path) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with pytest.raises(BundleError, match="is not signed"):
        Bundle.open(tiny_bundle, trusted_keys=[key.public_key()])
    signature = key.sign(Bundle.open(tiny_bundle).files["manifest.json"])
    signed = rewrite(tiny_bundle, tmp_path / "s.zip", {"signature": signature})
    assert Bundle.open(signed, trusted_keys=[other.public_key(), key.public_key()]).signed
    with pytest.raises(BundleError, match="not signed by a key that is trusted"):
        Bundle.open(signed, trusted_keys=[other.public_key()])


def test_the_committed_bundle_is_small_honest_and_right_here() -> None:
    bundle = Bundle.open(COMMITTED_BUNDLE)
    assert COMMITTED_BUNDLE.stat().st_size <= 1_500_000
    assert bundle.artefact().precision == "int8"
    assert bundle.manifest.research_only
    card = bundle.files["MODEL_CARD.md"].decode()
    assert "CC BY-NC-SA" in card
    assert "not a medical device" in card.lower()


def test_a_bundle_with_maps_gives_its_golden_maps_and_one_without_has_none(
    map_bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(map_bundle)
    artefact = bundle.artefact()
    runtime = open_runtime(bundle, artefact)
    (image, *_), _ = bundle.golden(artefact)
    assert runtime.maps is not None
    bound = runtime.maps
    runtime.infer(image[None])
    expected = image.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)) @ np.array([2, -1, -1]) / 25 - 2
    assert runtime.maps is bound  # nothing new per frame
    assert runtime.maps[..., 0] == pytest.approx(expected, abs=1e-3)
    maps = bundle.golden_maps(artefact)
    assert maps is not None
    assert maps[0, ..., 0] == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-4)
    plain = Bundle.open(tiny_bundle)
    assert plain.manifest.map_shape is plain.golden_maps(plain.artefact()) is None
    assert open_runtime(plain, plain.artefact()).maps is None
    # A model with an output that the manifest does not name keeps working.
    write_bundle(tmp_path / "b.zip", tiny_manifest(), tiny_files(maps=True))
    assert open_runtime(Bundle.open(tmp_path / "b.zip"), artefact).maps is None


@pytest.mark.parametrize("change", [0.01, np.nan])
def test_wrong_golden_maps_are_refused(tmp_path: Path, change: float) -> None:
    files = tiny_files(maps=True)
    with np.load(io.BytesIO(files["golden.npz"])) as golden:
        maps = golden["maps_fp32"].copy()
    maps[2, 3, 4, 1] += change
    write_bundle(tmp_path / "g.zip", map_manifest(), golden_with(files, maps_fp32=maps))
    with pytest.raises(BundleError, match="other maps on this machine than where it was made"):
        Bundle.open(tmp_path / "g.zip")
    write_bundle(tmp_path / "n.zip", map_manifest(), tiny_files())
    with pytest.raises(BundleError, match="holds no golden maps for fp32"):
        Bundle.open(tmp_path / "n.zip")
    write_bundle(tmp_path / "s.zip", map_manifest(), golden_with(files, maps_fp32=maps[..., :1]))
    with pytest.raises(BundleError, match=r"maps of the shape \(3, 8, 8, 1\) .* the manifest says \(3, 8, 8, 2\)"):
        Bundle.open(tmp_path / "s.zip")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": "heat"}, "has no output 'heat', only logits, maps"),
        ({"stride": 16}, r"output 'maps' is tensor\(float\) \[1, 8, 8, 2\], not tensor\(float\) \(1, 4, 4, 2\)"),
        ({"labels": ["folds"], "thresholds": {"folds": 0.5}}, r"not tensor\(float\) \(1, 8, 8, 1\)"),
    ],
)
def test_maps_that_the_model_does_not_have_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    spec = MapSpec(**{**MAPS.model_dump(), **changes})  # type: ignore[arg-type]
    assert spec.stride in (8, 16)
    shape = (3, 64 // spec.stride, 64 // spec.stride, len(spec.labels))
    files = golden_with(tiny_files(maps=True), maps_fp32=np.zeros(shape, np.float32))
    write_bundle(tmp_path / "m.zip", map_manifest(spec), files)
    with pytest.raises(BundleError, match=words):
        Bundle.open(tmp_path / "m.zip")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stride": 24}, "stride 24 does not divide the input, 64 x 64"),
        ({"thresholds": {"folds": 0.5}}, r"thresholds are given for \['folds'\], but the labels are"),
        ({"thresholds": {"folds": 0.5, "glottis": 1.0}}, "glottis"),
        ({"labels": ["folds", "folds"]}, "name one twice"),
        ({"output": "logits"}, "scores and maps are both said to be the output 'logits'"),
        ({"smoothing_s": 0}, "smoothing_s"),
    ],
)
def test_a_wrong_description_of_maps_is_refused(
    map_bundle: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    manifest: dict[str, Any] = manifest_of(map_bundle)
    manifest["outputs"]["maps"].update(changes)
    path = rewrite(map_bundle, tmp_path / "w.zip", {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match=words):
        Bundle.open(path)


def test_maps_need_a_tolerance(map_bundle: Path, tmp_path: Path) -> None:
    manifest: dict[str, Any] = manifest_of(map_bundle)
    del manifest["artefacts"][0]["map_tolerance"]
    path = rewrite(map_bundle, tmp_path / "w.zip", {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match="no map_tolerance for fp32"):
        Bundle.open(path)
