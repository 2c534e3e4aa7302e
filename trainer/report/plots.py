"""The page's plots: SVG whose ink takes the page's colours, so that one file is readable light, dark and printed."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.ticker

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that are replaced by the page's own colours once the picture is drawn.
_INK, _SOFT, _LINE, _PAPER = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)", _PAPER: "var(--paper)"}
PALETTE = ("#2f7fb8", "#d1791c", "#128a74", "#c2426a", "#7a67c7", "#8a7a3a", "#5f7d95", "#a0522d")
"""Told apart with any colour vision, on white and on black; told apart by dash and marker too."""
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 2)), "-")
_MARKERS = "osD^vPX*"
_STYLE: Any = {
    "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif", "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK, "axes.titlecolor": _INK, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": _LINE, "grid.linewidth": 0.7, "xtick.color": _SOFT, "ytick.color": _SOFT, "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT, "text.color": _INK, "axes.facecolor": "none", "figure.facecolor": "none",
    "savefig.facecolor": "none", "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.8,
    "axes.axisbelow": True, "figure.constrained_layout.use": True,
}  # fmt: skip


class Looks:
    """Colour, dash and marker of each row, the same in every plot of a page."""

    def __init__(self, names: Iterable[str]) -> None:
        self._place = {name: index for index, name in enumerate(names)}

    def colour(self, name: str) -> str:
        """Its colour."""
        return PALETTE[self._place[name] % len(PALETTE)]

    def line(self, name: str) -> dict[str, Any]:
        """Keywords of a line without markers."""
        return {"color": self.colour(name), "linestyle": _DASHES[self._other(name)]}

    def marker(self, name: str) -> str:
        """Its marker."""
        return _MARKERS[self._other(name)]

    def _other(self, name: str) -> int:
        """A second number, so that rows that share a colour share neither dash nor marker."""
        index = self._place[name]
        return (index + index // len(PALETTE)) % len(_MARKERS)


def svg(figure: Figure, name: str, text: str) -> str:
    """A figure as inline SVG: its own ids, the page's colours and fonts, a description for who cannot see it."""
    with mpl.rc_context({"svg.hashsalt": name}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', drawn)
    drawn = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', drawn)
    drawn = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", drawn)
    drawn = re.sub(r'font: ([^;"]*?)px [^;"]*', r"font-size: \1px; font-family: inherit", drawn)
    drawn = re.sub(r"font-family:[^;\"]*", "font-family: inherit", drawn)
    for stand_in, variable in _VARIABLES.items():
        drawn = drawn.replace(stand_in, variable)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    width = f' style="max-width: {round(float(size[1]) * 4 / 3)}px"' if size else ""
    head = f'<svg role="img" aria-label="{text}"{width} '
    return head + re.sub(r'^<svg |(?<=\s)(?:width|height)="[\d.]+pt" ?', "", drawn, count=3)


def _axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = (5, 3.6), **more: Any) -> tuple[Figure, Any]:
    with mpl.rc_context(_STYLE):
        return plt.subplots(rows, columns, figsize=size, squeeze=False, **more)


def _array(values: Sequence[float | None]) -> np.ndarray[Any, Any]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def curves(rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], looks: Looks, label: str) -> str:
    """ROC and precision against recall of one label, a line per row with its band."""
    grid = np.linspace(0, 1, 101)
    with mpl.rc_context(_STYLE):
        figure, ((left, right),) = _axes(1, 2, (10.5, 4.2))
        for name, row in rows.items():
            at = row["curves"][label]
            for axes, kind in ((left, "roc"), (right, "pr")):
                axes.plot(grid, _array(at[kind]), **looks.line(name), label=titles[name])
                if f"{kind}_band" in at:
                    low, high = (_array(part) for part in at[f"{kind}_band"])
                    axes.fill_between(grid, low, high, color=looks.colour(name), alpha=0.13, linewidth=0)
        left.set(title=f"ROC, {label}", xlabel="false positive rate", ylabel="true positive rate")
        right.set(title=f"Precision against recall, {label}", xlabel="recall", ylabel="precision")
        worst = min(float(np.nanmin(_array(row["curves"][label]["roc"])[8:])) for row in rows.values())
        floor = min(float(np.nanmin(_array(row["curves"][label]["pr"])[:97])) for row in rows.values())
        left.set(xlim=(-0.01, 0.5 if worst > 0.7 else 1.0), ylim=(_below(worst), 1.005))  # noqa: PLR2004
        right.set(xlim=(0.0 if floor < 0.6 else 0.5, 1.005), ylim=(_below(floor), 1.005))  # noqa: PLR2004
        left.legend(loc="lower right")
        return svg(figure, f"curves-{_slug(label)}", f"ROC and precision-recall curves for {label}")


def _below(value: float) -> float:
    """A round floor for an axis that begins under a value."""
    return float(max(0.0, np.floor((value - 0.03) * 10) / 10))


def reliability(rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], looks: Looks, claim: str) -> str:
    """Claimed against true, before and after temperature scaling, with the number of claims below."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(2, 2, (10.5, 5.3), sharex=True, gridspec_kw={"height_ratios": (4, 1)})
        bars = 0.8 / 15 / max(1, len(rows))
        for column, when in enumerate(("before", "after")):
            top, bottom = axes[0][column], axes[1][column]
            top.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.9, linestyle=(0, (2, 3)))
            for index, (name, row) in enumerate(rows.items()):
                at = row["calibration"][when]
                claimed, true, images = _array(at["claimed"]), _array(at["true"]), np.array(at["images"], float)
                known = images > 0
                line = looks.line(name) | {"alpha": 0.75, "linewidth": 1.2}
                top.plot(claimed[known], true[known], **line, label=titles[name] if not column else None)
                top.scatter(
                    claimed[known], true[known], 8 + 70 * images[known] / images.sum(), color=looks.colour(name),
                    marker=looks.marker(name), linewidths=0, alpha=0.9,
                )  # fmt: skip
                places = (np.arange(len(images)) + 0.1) / len(images) + index * bars
                bottom.bar(places, images, bars, align="edge", color=looks.colour(name), linewidth=0)
            top.set(
                title=f"{when.capitalize()} temperature scaling", ylabel="came true", xlim=(0, 1), ylim=(-0.02, 1.02)
            )
            bottom.set(xlabel=claim, ylabel="claims", yscale="symlog")
            bottom.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
            bottom.minorticks_off()
        figure.legend(loc="outside upper left", ncols=4, fontsize=9)
        return svg(figure, "reliability", "Reliability diagrams before and after temperature scaling")


def risk(rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], looks: Looks) -> str:
    """Wrong answers among those given, as fewer are given."""
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _axes(1, 1, (10.5, 3.4))
        for name, row in rows.items():
            at = row["risk"]
            label = f"{titles[name]} ({100 * at['area']:.2f})"
            axes.plot(100 * _array(at["coverage"]), 100 * _array(at["risk"]), **looks.line(name), label=label)
        axes.set(xlabel="answered, % of the images, the surest first", ylabel="wrong, % of the answered", xlim=(0, 100))
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", title="mean over all coverages, %", title_fontsize=9, alignment="left")
        return svg(figure, "risk", "Risk against coverage")


def forest(rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], looks: Looks, figure_name: str,
           sources: Mapping[str, Mapping[str, int]], axis: str) -> str:  # fmt: skip
    """A figure of every source and row with its interval."""
    count = len(rows)
    height = 0.9 + len(sources) * (0.22 * count + 0.24)
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _axes(1, 1, (10.5, height))
        ticks, names = [], []
        lowest = 1.0
        for place, (source, size) in enumerate(sources.items()):
            middle = -place * (count + 1.2)
            ticks.append(middle - (count - 1) / 2)
            groups = f"{size['groups']} group{'s' if size['groups'] > 1 else ''}"
            names.append(f"{source}\n{size['images']} images, {groups}")
            for index, (name, row) in enumerate(rows.items()):
                at = row["by_source"][source][figure_name]
                if at["value"] is None:
                    continue
                y = middle - index
                lowest = min(lowest, at["value"], 1.0 if at["low"] is None else at["low"])
                if at["low"] is not None:
                    axes.plot([100 * at["low"], 100 * at["high"]], [y, y], color=looks.colour(name), linewidth=1.6)
                face = looks.colour(name) if at["low"] is not None else "none"
                axes.scatter([100 * at["value"]], [y], 34, facecolors=face, edgecolors=looks.colour(name),
                             marker=looks.marker(name), linewidths=1.4, zorder=3,
                             label=titles[name] if place == 0 else None)  # fmt: skip
        axes.set_yticks(ticks, names)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=axis, xlim=(max(0, 100 * lowest - 4), 101.5))
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper left", ncols=min(3, count), fontsize=9)
        return svg(figure, "forest", f"{axis} by source and model")


def groups(by_group: Sequence[Mapping[str, Any]], title: str, colour: str) -> str:
    """Every group as a dot, by source: how even a model is over patients and recordings."""
    sources = sorted({group["source"] for group in by_group})
    rng = np.random.default_rng(0)
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _axes(1, 1, (10.5, 0.9 + 0.55 * len(sources)))
        for place, source in enumerate(sources):
            mine = [group for group in by_group if group["source"] == source]
            x = 100 * np.array([group["right"] for group in mine])
            y = -place + rng.uniform(-0.3, 0.3, len(mine))
            size = 10 + 6 * np.sqrt([group["images"] for group in mine])
            axes.scatter(x, y, size, color=colour, alpha=0.45, linewidths=0)
        axes.set_yticks([-place for place in range(len(sources))], sources)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=f"right, % of a group's images ({title})", xlim=(-3, 103))
        axes.grid(visible=False, axis="y")
        return svg(figure, "groups", "Share of right answers in every group")


def robustness(found: Mapping[str, Any], titles: Mapping[str, str], looks: Looks) -> str:
    """Accuracy against strength for each corruption, and how many frames the device still judges."""
    names = list(dict.fromkeys(name for name, strength in found["conditions"] if strength))
    columns = 4
    with mpl.rc_context(_STYLE):
        figure, grid = _axes(-(-len(names) // columns), columns, (10.5, 5.2), sharex=True, sharey=True)
        for index, name in enumerate(names):
            axes: Axes = grid[index // columns][index % columns]
            places = [i for i, (other, strength) in enumerate(found["conditions"]) if not strength or other == name]
            strengths = [found["conditions"][i][1] for i in places]
            fit = [100 * found["fit"][i] for i in places]
            axes.fill_between(strengths, 0, fit, color=_LINE, alpha=0.55, linewidth=0,
                              label="fit to be judged" if not index else None)  # fmt: skip
            for row, at in found["rows"].items():
                values = [at["accuracy"][i] for i in places]
                low, high = ([100 * (v[end] if v[end] is not None else v["value"]) for v in values]
                             for end in ("low", "high"))  # fmt: skip
                axes.fill_between(strengths, low, high, color=looks.colour(row), alpha=0.13, linewidth=0)
                axes.plot(strengths, [100 * v["value"] for v in values], **looks.line(row), marker=looks.marker(row),
                          markersize=3.5, label=titles.get(row, row) if not index else None)  # fmt: skip
            axes.set(title=name, xticks=[0, 1, 2, 3, 4, 5], ylim=(0, 102))
        for axes in grid[-1]:
            axes.set_xlabel("strength")
        for line in grid:
            line[0].set_ylabel("accuracy, %")
        for extra in range(len(names), grid.size):
            grid[extra // columns][extra % columns].set_axis_off()
        figure.legend(loc="outside upper left", ncols=4, fontsize=9)
        return svg(figure, "robustness", "Accuracy under eight corruptions at five strengths")


def size_against_accuracy(points: Sequence[Mapping[str, Any]], looks: Looks, axis: str) -> str:
    """What a model costs, in multiply-adds, against what it is right on."""
    with mpl.rc_context(_STYLE):
        figure, ((axes,),) = _axes(1, 1, (10.5, 3.5))
        for point in points:
            colour = looks.colour(point["name"])
            x, at = point["macs"] / 1e6, point["figure"]
            if at["low"] is not None:
                axes.plot([x, x], [100 * at["low"], 100 * at["high"]], color=colour, linewidth=1.4, alpha=0.7)
            axes.scatter([x], [100 * at["value"]], 46, color=colour, marker=looks.marker(point["name"]), zorder=3,
                         label=f"{point['title']}, {point['parameters'] / 1e6:.2f} M parameters")  # fmt: skip
        axes.set(xscale="log", xlabel="multiply-adds of one image, millions", ylabel=axis)
        values = [point["macs"] / 1e6 for point in points]
        axes.set_xlim(min(values) / 1.6, max(values) * 1.6)
        axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes.xaxis.set_major_locator(mpl.ticker.LogLocator(10, (1, 2, 5)))
        axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        figure.legend(loc="outside right upper", fontsize=8.5)
        return svg(figure, "cost", f"{axis} against multiply-adds")


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text)
