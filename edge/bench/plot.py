"""A run as a picture: how old frames are, how that holds over time, and where the time goes. Plain SVG, no library."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from edge.bench.report import warn
from edge.bench.sketch import Sketch, middle

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WIDTH, _LEFT, _RIGHT = 1200, 84, 1148
_INK, _SOFT, _FAINT, _GRID, _PAPER = "#17212b", "#5c6b7a", "#93a1ad", "#e6eaee", "#ffffff"
_AGE, _AGE_LIGHT, _BUDGET, _DROP, _MEMORY, _LADDER = "#0b7285", "#c5e4ea", "#c92a2a", "#e8590c", "#5f3dc4", "#862e9c"
_STAGES = ("#adb5bd", "#99d0f6", "#4a9fd8", "#0b7285", "#9775fa", "#f59f00", "#e64980", "#82c91e")
_STYLE = (
    "text{font-family:Inter,'Segoe UI',Roboto,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif;font-size:13px;"
    f"fill:{_SOFT}}}"
    f".title{{font-size:25px;font-weight:600;fill:{_INK}}}.head{{font-size:15px;font-weight:600;fill:{_INK}}}"
    f".big{{font-size:30px;font-weight:600;fill:{_INK}}}.small{{font-size:12px}}.mark{{font-size:12.5px;font-weight:600}}"
    ".n{font-variant-numeric:tabular-nums}"
)


class _Canvas:
    """Collects SVG elements."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "", *, anchor: str = "start", fill: str = "") -> None:
        color = f' fill="{fill}" style="fill:{fill}"' if fill else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{color}>{escape(text)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1, dash: str = "") -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
            f'stroke-width="{width}"{dashes}/>'
        )

    def box(self, x: float, y: float, width: float, height: float, color: str, more: str = "") -> None:
        self.parts.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(0.0, width):.2f}" height="{max(0.0, height):.2f}" '
            f'fill="{color}" {more}/>'
        )

    def path(self, points: Sequence[tuple[float, float]], *, fill: str = "none", stroke: str = "none",
             width: float = 1.5, closed: bool = False) -> None:  # fmt: skip
        if not points:
            return
        route = "M" + "L".join(f"{x:.2f},{y:.2f}" for x, y in points) + ("Z" if closed else "")
        self.parts.append(
            f'<path d="{route}" fill="{fill}" stroke="{stroke}" stroke-width="{width}" stroke-linejoin="round" '
            'stroke-linecap="round"/>'
        )


def draw(result: dict[str, Any]) -> str:
    """The picture of a result of `run`, as an SVG document."""
    canvas = _Canvas()
    _header(canvas, result)
    _distribution(canvas, result, 210, 470)
    _timeline(canvas, result, 560, 760)
    _memory(canvas, result, 800, 880)
    bottom = _breakdown(canvas, result, 950)
    height = _footer(canvas, result, bottom + 40)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="Benchmark: age of frames"><style>{_STYLE}</style>'
        f'<rect width="{_WIDTH}" height="{height}" fill="{_PAPER}"/>{"".join(canvas.parts)}</svg>\n'
    )


def _header(canvas: _Canvas, result: dict[str, Any]) -> None:
    machine, model, source = result["machine"], result["model"], result["source"]
    canvas.text(_LEFT - 44, 52, "Age of a frame, from exposure to publish", "title")
    canvas.text(
        _LEFT - 44,
        76,
        f"{machine['board'] or machine['cpu']} · {model['name']} {model['version']} {model['precision']} · "
        f"{source['name']}, {source['width']} x {source['height']} at {source['fps']:g} fps",
    )
    age, dropped = result["age_ms"], result["dropped"]["replaced"] + result["dropped"]["too_old"]
    facts = [
        (f"{result['fps']:.1f}", "frames a second", _INK),
        (f"{age['p50']:.1f} ms", "median age", _INK),
        (f"{age['p99']:.1f} ms", "p99 age", _BUDGET if age["p99"] > result["budget_ms"] else _INK),
        (_share(result["over_budget"], result["frames"]), f"over the budget of {result['budget_ms']:g} ms",
         _BUDGET if result["over_budget"] else _INK),
        (f"{dropped:,}", f"of {result['offered']:,} frames dropped", _DROP if dropped else _INK),
        (f"{100 * result['cpu']['process']:.0f} %", "of one core", _INK),
    ]  # fmt: skip
    for index, (value, what, color) in enumerate(facts):
        x = _LEFT - 44 + index * 187
        canvas.text(x, 128, value, "big n", fill=color)
        canvas.text(x, 148, what)


def _share(part: int, whole: int) -> str:
    if not part or not whole:
        return "0 %"
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 else f"{share:.1g} %"  # noqa: PLR2004  two digits are enough


def _distribution(canvas: _Canvas, result: dict[str, Any], top: float, bottom: float) -> None:
    canvas.text(_LEFT - 44, top - 18, "How old frames were", "head")
    age = Sketch.merged(Sketch.decode(s["durations"]["age"]) for s in result["slices"] if "age" in s["durations"])
    budget, percentiles = result["budget_ms"], result["age_ms"]
    if not age.counts:
        return
    low = min(age.lowest, budget) / 1.25
    high = max(age.highest, budget, percentiles["max"]) * 1.25
    span = math.log(high / low)

    def x(ms: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * math.log(ms / low) / span

    bins, width = _bins(age, low, span)
    peak = max(bins.values())
    total = age.total

    def y(count: float) -> float:
        return bottom - (bottom - top - 34) * math.sqrt(count / peak)

    for tick in _decades(low, high):
        canvas.line(x(tick), top + 22, x(tick), bottom, _GRID)
        canvas.text(x(tick), bottom + 19, f"{tick:g}", "small n", anchor="middle")
    canvas.text(_RIGHT, bottom + 38, "age, ms (logarithmic)", "small", anchor="end")
    canvas.text(_LEFT + 128, top - 18, f"share of {total:,} frames; heights by the square root, so that few are seen",
                "small")  # fmt: skip
    for share in (0.001, 0.01, 0.05, 0.2):
        if share * total < peak and share * total >= 0.5:  # noqa: PLR2004  less than half a frame is no line
            canvas.line(_LEFT, y(share * total), _RIGHT, y(share * total), _GRID)
            canvas.text(_LEFT - 8, y(share * total) + 4, f"{100 * share:g} %", "small n", anchor="end")
    canvas.line(_LEFT, bottom, _RIGHT, bottom, _FAINT)
    for index, count in sorted(bins.items()):
        begin = low * math.exp(index * width)
        left, right = x(begin), x(begin * math.exp(width))
        over = begin >= budget
        canvas.box(left + 0.4, y(count), right - left - 0.8, bottom - y(count), _BUDGET if over else _AGE, 'rx="1"')
    canvas.line(x(budget), top + 4, x(budget), bottom, _BUDGET, 1.5, "5 4")
    canvas.text(x(budget) + 6, top + 14, f"budget {budget:g} ms", "mark n", fill=_BUDGET)
    _percentile_marks(canvas, percentiles, x, top, bottom)


def _percentile_marks(canvas: _Canvas, percentiles: dict[str, float], x: Any, top: float, bottom: float) -> None:
    """p50, p95 and p99 as lines, their names in rows where they would run into each other."""
    rows = [-math.inf, -math.inf, -math.inf]
    for name in ("p50", "p95", "p99"):
        at, label = x(percentiles[name]), f"{name} {percentiles[name]:.1f}"
        row = next((r for r, end in enumerate(rows) if at - 8 > end), len(rows) - 1)
        rows[row] = at + 7.2 * len(label)
        height = top + 30 + 17 * row
        canvas.line(at, height - 10, at, bottom, _INK, 1)
        canvas.box(at + 2, height - 12, 7.0 * len(label) + 5, 16, _PAPER, 'opacity="0.85"')
        canvas.text(at + 5, height, label, "mark n", fill=_INK)


def _bins(age: Sketch, low: float, span: float) -> tuple[dict[int, int], float]:
    """Counts by logarithmic bin: as fine as the number of frames bears."""
    width = span / min(140, max(40, 6 * round(age.total ** (1 / 2.2))))
    bins: dict[int, int] = {}
    for bucket, count in age.counts.items():
        index = math.floor(math.log(max(middle(bucket), low) / low) / width)
        bins[index] = bins.get(index, 0) + count
    return bins, width


def _decades(low: float, high: float) -> Iterable[float]:
    wide = math.log10(high / low) > 2.5  # noqa: PLR2004  more marks than that would touch
    steps = (1, 2, 5) if wide else (1, 1.5, 2, 3, 4, 5, 7)
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in steps:
            if low <= step * 10**exponent <= high:
                yield step * 10**exponent


def _timeline(canvas: _Canvas, result: dict[str, Any], top: float, bottom: float) -> None:
    rows = result["timeline"]["rows"]
    step = result["timeline"]["step_s"]
    canvas.text(_LEFT - 44, top - 26, "How that held", "head")
    legend = _LEFT + 120
    for color, what, size in ((_AGE, "median", 3), ("#6cb8c6", "p95", 10), (_AGE_LIGHT, "youngest to oldest", 10),
                              (_DROP, "dropped frames", 10)):  # fmt: skip
        canvas.box(legend, top - 31 - size / 2, 16, size, color)
        canvas.text(legend + 22, top - 26, what + (f", of each {step:g} s" if what == "median" else ""), "small")
        legend += 40 + 7 * len(what) + (70 if what == "median" else 0)
    if not rows:
        return
    budget = result["budget_ms"]
    high = max(budget * 1.15, *(row["max"] for row in rows))
    low = min(row["min"] for row in rows) / 1.2
    logarithmic = high / budget > 3  # noqa: PLR2004  one late frame must not flatten all others
    x = _time_axis(result)

    def y(ms: float) -> float:
        share = math.log(max(ms, low) / low) / math.log(high / low) if logarithmic else ms / high
        return float(bottom - (bottom - top) * share)

    ticks = [t for t in _decades(low, high) if t != budget] if logarithmic else _linear(high)
    for tick in ticks:
        canvas.line(_LEFT, y(tick), _RIGHT, y(tick), _GRID)
        canvas.text(_LEFT - 8, y(tick) + 4, f"{tick:g}", "small n", anchor="end")
    canvas.text(_LEFT - 8, top - 6, "ms", "small", anchor="end")
    seen = [(begin, end, row) for begin, end, row in _steps(rows) if row["frames"]]
    for lower, upper, color in (("min", "max", _AGE_LIGHT), ("median", "p95", "#6cb8c6")):
        up = [(x(at), y(row[upper])) for begin, end, row in seen for at in (begin, end)]
        down = [(x(at), y(row[lower])) for begin, end, row in seen for at in (begin, end)]
        canvas.path([*up, *reversed(down)], fill=color, closed=True)
    canvas.path([(x(at), y(row["median"])) for begin, end, row in seen for at in (begin, end)], stroke=_AGE, width=2.4)
    canvas.line(_LEFT, y(budget), _RIGHT, y(budget), _BUDGET, 1.5, "5 4")
    canvas.box(_RIGHT - 96, y(budget) - 20, 96, 17, _PAPER, 'opacity="0.85" rx="3"')
    canvas.text(_RIGHT - 5, y(budget) - 7, f"budget {budget:g} ms", "mark n", anchor="end", fill=_BUDGET)
    _marks(canvas, result, x, top, bottom)
    canvas.line(_LEFT, bottom, _RIGHT, bottom, _FAINT)


def _marks(canvas: _Canvas, result: dict[str, Any], x: Any, top: float, bottom: float) -> None:
    """The ladder's steps, and the frames that were dropped."""
    for event in result["events"]:
        if event["kind"] == "ladder" and event["at_s"] >= 0:
            at = x(event["at_s"])
            canvas.line(at, top, at, bottom, _LADDER, 1.5)
            canvas.box(at + 2, top + 1, 10 + 6.6 * len(event["after"]), 17, _PAPER, 'opacity="0.85" rx="3"')
            canvas.text(at + 6, top + 14, event["after"], "mark", fill=_LADDER)
    rows = result["timeline"]["rows"]
    most = max(row["dropped"] for row in rows)
    for begin, end, row in _steps(rows):
        if row["dropped"]:
            height = 4 + 22 * row["dropped"] / most
            canvas.box(x(begin) + 0.5, bottom - height, max(1.0, x(end) - x(begin) - 1), height, _DROP, 'opacity="0.9"')
    if most:
        canvas.text(_RIGHT + 6, bottom - 22, f"{most}", "small n", fill=_DROP)


def _steps(rows: list[dict[str, float]]) -> list[tuple[float, float, dict[str, float]]]:
    """Each row with its beginning and its end, so that every stretch of time is as wide as it was."""
    begins = [0.0, *(row["at_s"] for row in rows)]
    return [(begin, row["at_s"], row) for begin, row in zip(begins, rows, strict=False)]


def _time_axis(result: dict[str, Any]) -> Any:
    rows = result["timeline"]["rows"]
    end = max(1e-9, rows[-1]["at_s"] if rows else result["seconds"])
    return lambda at: _LEFT + (_RIGHT - _LEFT) * min(at, end) / end


def _linear(high: float, most: int = 6) -> list[float]:
    raw = high / most
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(s * magnitude for s in (1, 2, 2.5, 5, 10) if s * magnitude >= raw)
    return [step * index for index in range(int(high / step) + 1)]


def _memory(canvas: _Canvas, result: dict[str, Any], top: float, bottom: float) -> None:
    rows, ring = result["timeline"]["rows"], float(result["ring_mb"])
    values = [float(row["memory_mb"]) - ring for row in rows]
    x = _time_axis(result)
    canvas.text(_LEFT - 44, top - 6, "Memory", "head")
    without = f", without the {ring:.0f} MB of frames held ready" if ring else ""
    if not values:
        return
    low, high = min(values), max(values)
    middle_mb, half = (low + high) / 2, max(2.0, (high - low) * 0.75)  # a flat line must look flat
    canvas.text(
        _LEFT + 36,
        top - 6,
        f"{values[-1]:.1f} MB at the end, {values[-1] - values[0]:+.1f} MB over the run{without}",
        "small n",
    )

    def y(mb: float) -> float:
        return bottom - (bottom - top - 8) * (mb - middle_mb + half) / (2 * half)

    for tick in (middle_mb - half, middle_mb, middle_mb + half):
        canvas.line(_LEFT, y(tick), _RIGHT, y(tick), _GRID)
        canvas.text(_LEFT - 8, y(tick) + 4, f"{tick:.1f}", "small n", anchor="end")
    points = [(x(at), y(row["memory_mb"] - ring)) for begin, end, row in _steps(rows) for at in (begin, end)]
    canvas.path(points, stroke=_MEMORY, width=2)
    seconds = rows[-1]["at_s"]
    unit, name = (1, "s") if seconds <= 180 else (60, "min") if seconds <= 3 * 3600 else (3600, "h")  # noqa: PLR2004
    canvas.line(_LEFT, bottom, _RIGHT, bottom, _FAINT)
    for tick in _linear(seconds / unit, 10):
        canvas.line(x(tick * unit), bottom, x(tick * unit), bottom + 5, _FAINT)
        canvas.text(x(tick * unit), bottom + 20, f"{tick:g}", "small n", anchor="middle")
    canvas.text(_RIGHT, bottom + 38, name, "small", anchor="end")


def _breakdown(canvas: _Canvas, result: dict[str, Any], top: float) -> float:
    """Where a median frame's time goes, and a late one's; returns the lower edge."""
    canvas.text(_LEFT - 44, top, "Where the time goes", "head")
    stages = result["stages_ms"]
    widest = max(1e-9, *(sum(stages[name][share] for name in stages) for share in ("p50", "p99")))
    colors = dict(zip(stages, _STAGES * 2, strict=False))
    for row, (share, title) in enumerate((("p50", "median"), ("p99", "p99"))):
        at, y = float(_LEFT), top + 18 + 32 * row
        canvas.text(_LEFT - 8, y + 16, title, "small", anchor="end")
        for name, stage in stages.items():
            width = (_RIGHT - _LEFT - 70) * stage[share] / widest
            canvas.box(at, y, width, 23, colors[name])
            label = f"{stage[share]:.1f}"
            if width > 8.5 * len(label):
                dark = name == "inference"
                canvas.text(at + width / 2, y + 16, label, "small n", anchor="middle", fill=_PAPER if dark else _INK)
            at += width
        canvas.text(at + 8, y + 16, f"{sum(s[share] for s in stages.values()):.1f} ms", "mark n", fill=_INK)
    x, y = float(_LEFT), top + 102
    for name in stages:
        canvas.box(x, y - 10, 12, 12, colors[name], 'rx="2"')
        canvas.text(x + 18, y, name, "small")
        x += 40 + 7.2 * len(name)
    canvas.text(_RIGHT, y, "the p99 bar is the sum of each stage's own p99", "small", anchor="end",
                fill=_FAINT)  # fmt: skip
    return y


def _footer(canvas: _Canvas, result: dict[str, Any], top: float) -> int:
    machine, y = result["machine"], top
    canvas.line(_LEFT - 44, y - 18, _RIGHT + 8, y - 18, _GRID)
    before, after = result["before"]["temperature_c"], result["after"]["temperature_c"]
    heat = "" if before is None or after is None else f" · {before:.0f} °C before, {after:.0f} °C after"
    for sentence in warn(result):
        canvas.text(_LEFT - 44, y + 2, sentence, "small", fill=_BUDGET)
        y += 19
    canvas.text(
        _LEFT - 44,
        y + 2,
        f"{machine['system']} · {result['model']['runtime']} · OpenCV {machine['opencv']} · Foldsight "
        f"{machine['foldsight']}{heat} · {time.strftime('%Y-%m-%d %H:%M', time.gmtime(result['at']))} UTC",
        "small",
        fill=_FAINT,
    )
    return round(y + 26)
