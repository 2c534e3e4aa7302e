from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

EMULATOR = Path(__file__).parents[2] / "deploy" / "emulator"
sys.path.insert(0, str(EMULATOR))
import arm_root  # noqa: E402  from there
import cost  # noqa: E402
import prepared  # noqa: E402
import tally  # noqa: E402

MARK = 1562
Tree = tuple[int, list[tuple[str, "Tree"]]]  # instructions of its own, and what it calls
functions = st.recursive(
    st.tuples(st.integers(0, 10**9), st.just([])),
    lambda inner: st.tuples(st.integers(0, 10**9), st.lists(st.tuples(st.sampled_from("fgh"), inner), max_size=3)),
    max_leaves=8,
)
frames = st.lists(st.dictionaries(st.sampled_from(cost.STAGES), functions, min_size=1), min_size=1, max_size=4)


class Machine:
    """Writes down marks and counts as the plugin and inside.py do."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.counts: list[int] = []
        self.at = 1000
        for _ in range(5):
            self.mark("null")

    def mark(self, name: str) -> None:
        self.names.append(name)
        self.counts.append(self.at)
        self.at += MARK

    def call(self, tree: Tree) -> None:
        self.at += tree[0]
        for name, inner in tree[1]:
            self.mark(f"+{name}")
            self.call(inner)
            self.mark(f"-{name}")


def whole(tree: Tree) -> int:
    return tree[0] + sum(whole(inner) for _, inner in tree[1])


@given(frames)
def test_what_ran_between_marks_is_found_again_to_the_instruction(made: list[dict[str, Tree]]) -> None:
    machine = Machine()
    machine.mark("off")
    machine.at += 12345  # not within a frame
    begin = len(machine.names)
    for frame in made:
        for stage, tree in frame.items():
            machine.mark(stage)
            machine.call(tree)
        machine.mark("off")
        machine.at += 777
    found = tally.tally(machine.names, machine.counts, begin)
    assert found.mark == MARK
    assert found.frames == [{stage: whole(tree) for stage, tree in frame.items()} for frame in made]
    own: Counter[tuple[str, ...]] = Counter()
    calls: Counter[tuple[str, ...]] = Counter()

    def walk(path: tuple[str, ...], tree: Tree) -> None:
        own[path] += tree[0]
        calls[path] += 1
        for name, inner in tree[1]:
            walk((*path, name), inner)

    for frame in made:
        for stage, tree in frame.items():
            walk((stage,), tree)
    assert {path: step.own for path, step in found.steps.items()} == dict(own)
    assert {path: step.calls for path, step in found.steps.items()} == dict(calls)
    for path, step in found.steps.items():
        assert step.whole == sum(count for other, count in own.items() if other[: len(path)] == path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "ended early"),
        ("100\n200\n", "ended early"),
        ("100\n200\nthreads 2\n", "2 threads ran"),
    ],
)
def test_counts_that_mean_nothing_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(tally.TallyError, match=sentence):
        tally.read_counts(text)


def test_counts_are_read() -> None:
    assert tally.read_counts("100\n2000\nthreads 1\n") == [100, 2000]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["null", "null", "wait"], "3 marks were set and 4 counted"),
        (["off", "wait", "optics", "off"], "what a mark costs is not known"),
        (["null", "null", "wait", "-f"], None),
        (["null", "null", "wait", "+f", "-g", "off"], "g ends within f"),
    ],
)
def test_marks_that_do_not_fit_are_refused(names: list[str], sentence: str | None) -> None:
    counts = list(range(0, 1000 * max(4, len(names)), 1000))
    if sentence is None:
        assert tally.tally(names, counts, 2).frames == [{"wait": 0}]  # the last mark begins nothing
        return
    with pytest.raises(tally.TallyError, match=sentence):
        tally.tally(names, counts, 0 if names[0] == "off" else 2)


@pytest.mark.parametrize(
    ("name", "part", "dot_product"), [("cortex-a72", "0xd08", False), ("cortex-a76", "0xd0b", True)]
)
def test_a_processor_says_what_it_is(tmp_path: Path, name: str, part: str, dot_product: bool) -> None:
    place, debian = tmp_path / name, tmp_path / "debian-x"
    (debian / "usr").mkdir(parents=True)
    arm_root.describe_cpu(place, arm_root.CPUS[name], debian)
    text = (place / "proc" / "cpuinfo").read_text()
    said = dict(re.split(r"\s*: ?", line, maxsplit=1) for line in text.splitlines() if line)
    assert said["CPU part"] == part
    assert said["CPU implementer"] == "0x41"
    assert ("asimddp" in said["Features"].split()) is dot_product
    for file in ("online", "possible", "present"):
        assert (place / "sys/devices/system/cpu" / file).read_text() == "0\n"
    assert (place / "usr").resolve() == debian / "usr"


def test_a_moved_folder_still_works_and_a_new_distribution_is_linked_anew(tmp_path: Path) -> None:
    first, cpu = tmp_path / "a", arm_root.CPUS["cortex-a76"]
    (first / "debian-1" / "usr").mkdir(parents=True)
    (first / "debian-2" / "usr").mkdir(parents=True)
    arm_root.describe_cpu(first / "cpu", cpu, first / "debian-1")
    moved = first.rename(tmp_path / "b")
    assert (moved / "cpu" / "usr").resolve() == moved / "debian-1" / "usr"
    arm_root.describe_cpu(moved / "cpu", cpu, moved / "debian-2")
    assert (moved / "cpu" / "usr").resolve() == moved / "debian-2" / "usr"


def test_what_a_cut_off_set_up_left_is_done_again(tmp_path: Path) -> None:
    place, made = tmp_path / "thing", []

    def make(part: Path) -> None:
        assert not part.exists()
        part.mkdir()
        (part / "half").touch()
        made.append(part)
        if len(made) == 1:
            raise KeyboardInterrupt
        (part / "whole").touch()

    with pytest.raises(KeyboardInterrupt):
        prepared.once(place, make)
    assert not place.exists()
    prepared.once(place, make)
    prepared.once(place, make)
    assert (place / "whole").is_file()
    assert len(made) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_a_failing_command_is_one_sentence_with_its_last_word() -> None:
    told: list[str] = []
    script = "for n in $(seq 45); do echo Get $n; done; echo 'E: no route to host'; exit 3"
    with pytest.raises(prepared.SetupError, match=r"could not be fetched \(E: no route to host\): see that network"):
        prepared.follow(["sh", "-c", script], "Get ", told.append, "it could not be fetched")
    assert told == ["  1: 1", "  21: 21", "  41: 41"]


def test_missing_tools_and_bad_folders_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arm_root, "TOOLS", {"sh": "dash", "no-such-tool": "no-such-package"})
    assert cost.main(["--setup", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "no-such-tool not found: run 'apt-get install no-such-package' as root" in said
    monkeypatch.setattr(arm_root, "TOOLS", {"sh": "dash"})
    (tmp_path / "file").touch()
    assert cost.main(["--setup", "--folder", str(tmp_path / "file" / "inner")]) == 1
    said = capsys.readouterr().err
    assert "cannot be used" in said
    assert "--folder" in said
    assert said.count("\n") == 1


def test_failures_of_the_emulated_program_are_sentences() -> None:
    cpu = arm_root.CPUS["cortex-a76"]
    traceback = 'Traceback:\n  File "x"\nedge.errors.BundleError: it is damaged\n\n'
    assert cost.failure(cpu, 1, traceback) == "the emulated cortex-a76 failed: it is damaged"
    assert cost.failure(cpu, -11, "") == "the emulated cortex-a76 failed: exit status -11"
    old = "Could not load plugin count.so: plugin requires API version 1, but this QEMU supports only a minimum of 2"
    assert "needs QEMU 4.2 to 9.0" in cost.failure(cpu, 1, old)


def test_the_wheels_are_dependencies_of_the_device() -> None:
    entries = [entry for entry in requires("foldsight") or () if "extra" not in entry or 'extra == "ncnn"' in entry]
    wanted = {re.split(r"[<>=;\s]", entry)[0].lower() for entry in entries}
    lines = (EMULATOR / "requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert {line.split("==")[0].lower() for line in pinned} <= wanted
    assert all("==" in line for line in pinned)


@pytest.mark.parametrize("deep", [False, True])
def test_the_live_path_marks_every_stage_of_every_frame(tmp_path: Path, tiny_bundle: Path, deep: bool) -> None:
    rng = np.random.default_rng(0)
    shown = tmp_path / "frames.npy"
    np.save(shown, rng.integers(60, 200, (4, 96, 128, 3), np.uint8))
    out = tmp_path / "marks.json"
    command = [sys.executable, str(EMULATOR / "inside.py"), "--out", out, "--bundle", tiny_bundle, "--frames", shown]
    environment = {**os.environ, "PYTHONPATH": str(EMULATOR.parents[1])}
    command += ["--fps", "10", "--measured", "7", *(["--deep"] if deep else [])]
    subprocess.run(command, check=True, env=environment)
    said = json.loads(out.read_text())
    names, begin = said["marks"], said["about"]["begin"]
    counted = tally.tally(names, [1000 * n for n in range(len(names))], begin)
    assert [tuple(frame) for frame in counted.frames] == [cost.STAGES] * 7
    assert said["about"]["golden"] == {"fp32": 0.0}
    assert names[begin] == "wait"
    paths = {path[1:] for path in counted.steps}
    if not deep:
        assert paths == {()}
        return
    quality = ("QualityMeter.measure", "_measure", "cv2.meanStdDev")
    assert {("OnnxRuntime.infer",), quality, ("encoded",)} <= paths
    # Ten frames a second, and five looks for the aperture.
    assert counted.steps["optics", "ApertureTracker.update"].calls == 7
    assert counted.steps["optics", "ApertureTracker.update", "_search"].calls in (3, 4)


def test_a_graph_alone_is_marked(tmp_path: Path, tiny_bundle: Path) -> None:
    shutil.unpack_archive(tiny_bundle, tmp_path)
    out = tmp_path / "marks.json"
    inside = [sys.executable, str(EMULATOR / "inside.py"), "--out", str(out), "--model"]
    subprocess.run([*inside, str(tmp_path / "fp32.onnx")], check=True)
    said = json.loads(out.read_text())
    assert said["about"]["input"] == [1, 64, 64, 3]
    found = tally.tally(said["marks"], [1000 * n for n in range(len(said["marks"]))], said["about"]["begin"])
    assert len(found.frames) == said["about"]["frames"]


def test_calls_alone_are_marked(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text("CALLS = {'a': lambda: 1, 'b': lambda: 2}\n")
    (tmp_path / "none.py").write_text("")
    inside = [sys.executable, str(EMULATOR / "inside.py"), "--out", str(tmp_path / "marks.json"), "--calls"]
    subprocess.run([*inside, str(tmp_path / "calls.py")], check=True)
    said = json.loads((tmp_path / "marks.json").read_text())
    found = tally.tally(said["marks"], [1000 * n for n in range(len(said["marks"]))], said["about"]["begin"])
    assert {path: step.calls for path, step in found.steps.items()} == {("a",): 5, ("b",): 5}
    done = subprocess.run([*inside, str(tmp_path / "none.py")], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "defines no CALLS" in done.stderr


def made_up(scale: int) -> tally.Tally:
    frame = {stage: scale * (index + 1) * 1_000_000 for index, stage in enumerate(cost.STAGES)}
    steps = {("optics",): tally.Step(2, 4_000_000, 0), ("optics", "f"): tally.Step(1, 4_000_000, 4_000_000)}
    return tally.Tally([frame, frame], steps)


def test_the_summary_and_the_tables() -> None:
    entry = cost.summary([made_up(1), made_up(2)])
    assert entry["whole"] == 1.5 * 36_000_000
    assert entry["not_inference"] == 1.5 * 32_000_000
    assert (entry["smallest_frame"], entry["largest_frame"]) == (36_000_000, 72_000_000)
    assert entry["spread"]["whole"] == pytest.approx(36 / 54)
    entry |= {"golden": {"int8": 0.001}, "runtime": "ncnn 1.0, CPU, half, 1 thread", "steps": cost.steps(made_up(1))}
    assert entry["steps"][1] == {"path": ["optics", "f"], "calls": 0.5, "whole": 2_000_000, "own": 2_000_000}
    about = {
        "model": "m 1.0.0", "precision": "int8", "input": [160, 160], "frame": [720, 1280], "frames": 30, "fps": 30.0,
        "versions": {"python": "3.11.2"},
    }  # fmt: skip
    table = cost.frame_table({"about": about, "qemu": "qemu 7.2", "cpus": {"cortex-a76": entry}})
    assert any(re.fullmatch(r"whole path +54\.00", line) for line in table)
    assert "cortex-a76: ncnn 1.0, CPU, half, 1 thread" in table
    assert any(re.fullmatch(r"  of inference +800%", line) for line in table)
    assert any(re.fullmatch(r"  f +0\.50 +2\.00 +2\.00 +4\.00", line) for line in table)
    models = {"a/b.onnx": {"input": [1, 8, 8, 3], "cortex-a72": {"instructions": 2_500_000, "spread": 0.0}}}
    alone = {"qemu": "q", "versions": {"python": "3.11.2"}}
    assert re.search(r"b\.onnx 1x8x8x3 +2\.50", cost.alone_table({**alone, "models": models})[-1])
    calls = {"resize / 2": {"cortex-a72": {"instructions": 2_500_000}}}
    assert re.search(r"resize / 2 +2\.50", cost.alone_table({**alone, "calls": calls})[-1])


def build(plugin: Path) -> None:
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-fvisibility=hidden", "-o", plugin, EMULATOR / "count.c"]
    subprocess.run(command, check=True)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not here")
def test_the_plugin_compiles_and_shows_what_qemu_looks_for(tmp_path: Path) -> None:
    build(tmp_path / "count.so")
    content = (tmp_path / "count.so").read_bytes()
    assert b"qemu_plugin_install" in content
    assert b"qemu_plugin_version" in content


def arm_program(turns: int) -> bytes:
    """An arm64 ELF file: getppid, a loop of two instructions, getppid, exit(0)."""
    code = struct.pack(
        "<9I",
        0xD28015A8,  # mov x8, 173
        0xD4000001,  # svc 0
        0xD2800000 | turns << 5 | 1,  # mov x1, turns
        0xF1000421,  # subs x1, x1, 1
        0x54FFFFE1,  # b.ne to the line above
        0xD4000001,  # svc 0
        0xD2800BA8,  # mov x8, 93
        0xD2800000,  # mov x0, 0
        0xD4000001,  # svc 0
    )
    base, size = 0x400000, 64 + 56
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 183, 1, base + size, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size + len(code), size + len(code), 0x1000)
    return header + segment + code


@pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("qemu-aarch64") is None, reason="gcc or qemu-aarch64 is not here"
)
@pytest.mark.parametrize("turns", [1, 1000, 65535])
def test_the_plugin_counts_to_the_instruction(tmp_path: Path, turns: int) -> None:
    plugin, program, counts = tmp_path / "count.so", tmp_path / "program", tmp_path / "counts"
    build(plugin)
    program.write_bytes(arm_program(turns))
    program.chmod(0o755)
    subprocess.run(["qemu-aarch64", "-plugin", f"{plugin},out={counts}", program], check=True)
    assert tally.read_counts(counts.read_text()) == [2, 2 + 1 + 2 * turns + 1]


@pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("qemu-aarch64") is None, reason="gcc or qemu-aarch64 is not here"
)
def test_the_plugin_says_where_it_cannot_write(tmp_path: Path) -> None:
    build(tmp_path / "count.so")
    (tmp_path / "program").write_bytes(arm_program(1))
    (tmp_path / "program").chmod(0o755)
    nowhere = f"{tmp_path}/count.so,out={tmp_path}/missing/counts"
    done = subprocess.run(
        ["qemu-aarch64", "-plugin", nowhere, tmp_path / "program"], capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "give out=FILE" in done.stderr
