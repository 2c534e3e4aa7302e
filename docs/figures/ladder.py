"""Draws what the ladder does under a step load, as ladder.png: `.venv/bin/python docs/figures/ladder.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "edge"))
from simulation import Run, simulate  # noqa: E402  the tests' own

from edge.latency import Ladder, Rung  # noqa: E402

BUDGET_MS, FPS, BEGIN_S, END_S, SECONDS = 33.0, 60.0, 5.0, 15.0, 24.0
LIGHT_MS, SMALLER = 8.0, 0.4
CASES = (("work 8 → 22 ms", 22.0), ("work 8 → 45 ms", 45.0), ("work 8 → 150 ms", 150.0))


def respond(heavy_ms: float) -> tuple[Run, Ladder]:
    """One load step, with a bundle that has a smaller model."""

    def load(at: float, rung: Rung) -> float:
        full = heavy_ms if BEGIN_S <= at < END_S else LIGHT_MS
        return SMALLER * full if rung.smaller else full

    ladder = Ladder(BUDGET_MS, smaller=True)
    return simulate(ladder, load, seconds=SECONDS, fps=FPS, delivery_ms=5, noise=0.08), ladder


def draw(path: Path) -> list[str]:
    """Write the picture; returns a line per case."""
    figure, axes = plt.subplots(
        2, len(CASES), figsize=(11, 5.2), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    lines = []
    for column, (name, heavy_ms) in enumerate(CASES):
        run, ladder = respond(heavy_ms)
        at = np.array([s.at_s for s in run.samples])
        age = np.array([s.age_ms for s in run.samples])
        top, bottom = axes[0, column], axes[1, column]
        late = age > BUDGET_MS
        top.plot(at[~late], age[~late], ".", markersize=2.5, color="#2a6f97", label="within the budget")
        top.plot(at[late], age[late], ".", markersize=2.5, color="#c8553d", label="over it")
        top.axhline(BUDGET_MS, color="black", linewidth=0.8, linestyle="--", label=f"budget {BUDGET_MS:g} ms")
        top.set(title=name, yscale="log", ylim=(5, 400))
        top.set_yticks([10, 33, 100, 300], ["10", "33", "100", "300"])
        top.minorticks_off()
        bottom.step(at, run.rungs, where="post", color="#222222")
        bottom.set(ylim=(len(ladder.rungs) - 0.6, -0.4), xlabel="seconds", xlim=(0, SECONDS))
        bottom.set_yticks(range(len(ladder.rungs)), [r.name for r in ladder.rungs] if column == 0 else [])
        bottom.grid(axis="y", color="#dddddd", linewidth=0.6)
        for axis in (top, bottom):
            axis.axvspan(BEGIN_S, END_S, color="#f2e9de", zorder=0)
            axis.spines[["top", "right"]].set_visible(False)
        down = [at_s - BEGIN_S for at_s, _ in run.steps if at_s < END_S]
        up = [at_s - END_S for at_s, _ in run.steps if at_s >= END_S]
        ended = ladder.rungs[run.rung_at(END_S)].name
        lines.append(f"{name}: {ended} after {max(down):.2f} s in {len(down)} step(s); back after {max(up):.2f} s")
    axes[0, 0].set_ylabel("age of each published frame, ms")
    axes[0, 0].legend(loc="upper right", fontsize=7, frameon=False)
    figure.suptitle(
        f"The ladder under a step load (shaded), simulated: {FPS:g} fps, the smaller model at {SMALLER:g} of the work",
        fontsize=10,
    )
    figure.savefig(path, dpi=100)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "ladder.png")
    print("\n".join(draw(parser.parse_args().out)))
