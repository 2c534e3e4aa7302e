"""What was measured of a model's cost elsewhere, read from the JSON that the measuring commands print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Cells = dict[str, dict[str, str]]
NOTHING = "-"


def load_cost(path: Path) -> dict[str, Any]:
    """Read the JSON of `make arm-cost JSON=1`, of the counter on single graphs, or of `foldsight bench --json`.

    Raises:
        ConfigError: it cannot be read, or is none of these.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no JSON can be read there ({error}); give what a cost command printed") from error
    if not any(key in found for key in _KINDS):
        raise ConfigError(f"{path}: is none of what arm-cost, its counter or bench print as JSON; give one of these")
    return found


def cost_table(costs: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> dict[str, Any] | None:
    """One table of all costs.

    Args:
        costs: of `load_cost`.
        titles: of the rows; a graph's file is named after its row.

    Returns:
        `titles` of the columns, `lines` (title and cells), `notes`; None where nothing was measured.
    """
    lines: Cells = {}
    notes = []
    for cost in costs:
        kind = next(key for key in _KINDS if key in cost)
        notes.append(_KINDS[kind](cost, titles, lines))
    if not lines:
        return None
    heads = list(dict.fromkeys(head for cells in lines.values() for head in cells))
    return {
        "titles": heads,
        "lines": [{"title": name, "cells": [cells.get(h, NOTHING) for h in heads]} for name, cells in lines.items()],
        "notes": list(dict.fromkeys(notes)),
    }


def _graphs(cost: Mapping[str, Any], titles: Mapping[str, str], lines: Cells) -> str:
    for file, entry in cost["models"].items():
        name = Path(file).stem
        for cpu, at in entry.items():
            if isinstance(at, dict):
                told = f"{at['instructions'] / 1e6:.1f} M"
                lines.setdefault(titles.get(name, name), {})[f"instructions of one inference, {cpu}"] = told
    return f"Arm instructions of one inference, one thread, counted under emulation ({cost['qemu']})."


def _path(cost: Mapping[str, Any], titles: Mapping[str, str], lines: Cells) -> str:
    del titles  # the whole path is a bundle's, not a row's
    about = cost["about"]
    title = " ".join(str(about[key]) for key in ("name", "version") if key in about) or "bundle"
    for cpu, at in cost["cpus"].items():
        lines.setdefault(title, {})[f"instructions of the whole path, {cpu}"] = f"{at['whole'] / 1e6:.1f} M"
    return "The whole path: from the camera's frame to the packet, mean of 30 frames, counted under emulation."


def _bench(cost: Mapping[str, Any], titles: Mapping[str, str], lines: Cells) -> str:
    del titles
    model, board = cost["model"], cost["machine"]
    cells = lines.setdefault(f"{model['name']} {model['version']} {model['precision']}", {})
    cells["one inference, median"] = f"{cost['inference_alone_ms']['p50']:.2f} ms"
    cells["age when published, p95"] = f"{cost['age_ms']['p95']:.1f} ms"
    return f"Milliseconds: {board['board'] or board['cpu']}, {board['cores']} cores, {model['runtime']}."


_KINDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, str], Cells], str]] = {
    "models": _graphs,
    "cpus": _path,
    "age_ms": _bench,
}
