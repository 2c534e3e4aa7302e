"""A run's result as text."""

from __future__ import annotations

from typing import Any

BUSY_CORES = 0.25  # what others may use before the figures are no longer this machine's best


def report(result: dict[str, Any]) -> str:
    """The result for a person."""
    lines = [*_what(result), "", *_frames(result), "", *_durations(result), *_artefacts(result), "", *_drift(result)]
    warnings = warn(result)
    return "\n".join([*lines, *(["", *warnings] if warnings else [])])


def _what(result: dict[str, Any]) -> list[str]:
    machine, model, source = result["machine"], result["model"], result["source"]
    governor = f", governor {machine['governor']}" if machine["governor"] else ""
    return [
        (
            f"{machine['board'] or machine['cpu']} ({machine['machine']}, {_many(machine['cores'], 'core')}"
            f"{governor}), {machine['system']}"
        ),
        f"{model['name']} {model['version']} {model['precision']}, {model['runtime']}",
        f"{source['name']}, {source['width']}x{source['height']} at {source['fps']:g} fps, pace {result['pace']}",
    ]


def _frames(result: dict[str, Any]) -> list[str]:
    cpu, dropped = result["cpu"], result["dropped"]
    ring = f" (the frames themselves {result['ring_mb']:.0f})" if result["ring_mb"] else ""
    before, after = result["before"], result["after"]
    heat = "temperature unknown"
    if before["temperature_c"] is not None and after["temperature_c"] is not None:
        heat = f"{before['temperature_c']:.1f} °C before, {after['temperature_c']:.1f} °C after"
    flags = sorted({*before["throttled"], *after["throttled"]})
    pinned = "" if result["pinned_to"] is None else f" (all on core {result['pinned_to']})"
    return [
        (
            f"{result['fps']:.1f} frames/s over {result['seconds']:.1f} s; over budget ({result['budget_ms']:g} ms) "
            f"{result['over_budget']} of {result['frames']}; replaced {dropped['replaced']}, "
            f"too old {dropped['too_old']}{_why(result['dropped_by'])}"
        ),
        (
            f"CPU {100 * cpu['process']:.0f} % of one core{pinned}, of it the pipeline "
            f"{100 * cpu['pipeline']:.0f} %; others "
            f"{100 * cpu['others']:.0f} %; waited for a core {cpu['waited_ms_per_s']:.1f} ms/s"
        ),
        _ladder(result["ladder"]),
        f"memory {result['memory_mb']:.0f} MB{ring}; {heat}; throttled: {', '.join(flags) or 'no'}",
    ]


def _why(dropped_by: dict[str, int]) -> str:
    if not any(dropped_by.values()):
        return ""
    return f" ({dropped_by['no_core']} while it waited for a core, {dropped_by['own_work']} by its own work)"


def _durations(result: dict[str, Any]) -> list[str]:
    lines = [f"{'ms':<12}{'p50':>9}{'p95':>9}{'p99':>9}{'p99.9':>9}{'max':>9}"]
    for name, p in [*result["stages_ms"].items(), ("age", result["age_ms"])]:
        lines.append(f"{name:<12}{p['p50']:>9.2f}{p['p95']:>9.2f}{p['p99']:>9.2f}{p['p999']:>9.2f}{p['max']:>9.2f}")
    alone = result["inference_alone_ms"]
    return [*lines, f"inference alone: {alone['p50']:.2f} ms (p50), {alone['p95']:.2f} ms (p95)"]


def _artefacts(result: dict[str, Any]) -> list[str]:
    found = result.get("artefacts")
    if not found:
        return []
    lines = ["", f"{'one inference, ms':<36}{'p50':>9}{'p95':>9}{'kB':>9}"]
    for entry in found["timed"]:
        label = entry["name"] if entry["role"] == "primary" else f"{entry['name']} (smaller)"
        lines.append(f"{label:<36}{entry['p50_ms']:>9.2f}{entry['p95_ms']:>9.2f}{entry['bytes'] / 1000:>9.0f}")
    lines.append(f"use {found['use']}: {found['why']}")
    missing = {"engine": found["engine"], "ncnn": found.get("ncnn", "")}
    return [*lines, *(f"no {name}: {why}" for name, why in missing.items() if why)]


def _drift(result: dict[str, Any]) -> list[str]:
    tenths = result["drift"]
    lines = [f"{'by tenth':<12}" + "".join(f"{index + 1:>8}" for index in range(len(tenths)))]
    for title, key in (("age p50", "p50"), ("age p99", "p99"), ("memory MB", "memory_mb")):
        lines.append(f"{title:<12}" + "".join(f"{tenth[key]:>8.2f}" for tenth in tenths))
    return lines


def _ladder(ladder: dict[str, Any]) -> str:
    if not ladder["skipped"] and ladder["first"] == ladder["last"]:
        return f"ladder: {ladder['last']} throughout"
    return (
        f"ladder: {ladder['first']} at first, {ladder['last']} at last; {ladder['skipped']} frames left out on purpose"
    )


def warn(result: dict[str, Any]) -> list[str]:
    """What makes the figures less than this machine's best, one sentence each; empty where nothing does."""
    cpu, warnings = result["cpu"], []
    if cpu["others"] > BUSY_CORES:
        warnings.append(
            f"Other processes used {cpu['others']:.1f} of {_many(result['machine']['cores'], 'core')}: age, tails and "
            "drops are those of a busy machine. Repeat it on a quiet one."
        )
    if cpu["stolen"] > BUSY_CORES / 5:
        warnings.append(f"The hypervisor took {100 * cpu['stolen']:.0f} % of a core: tails are partly its own.")
    flags = sorted({*result["before"]["throttled"], *result["after"]["throttled"]})
    if flags:
        warnings.append(f"The board limited its processor ({', '.join(flags)}): check supply and cooling.")
    return warnings


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
