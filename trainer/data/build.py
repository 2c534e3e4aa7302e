"""All records of a data root in one call: import, the visibility rule, groups, splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.data.importers import import_phantom, import_sources
from trainer.data.splits import merge_near_groups, split_by_group
from trainer.data.visibility import VisibilitySettings, apply_visibility

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.data.manifest import Record


def build_records(
    root: Path,
    settings: VisibilitySettings | None = None,
    seed: int = 0,
    wanted: Sequence[str] | None = None,
    more: Sequence[Record] = (),
) -> tuple[list[Record], list[str]]:
    """Import what is below a data root and make the visibility task of it.

    Args:
        root: The data root.
        settings: Of the visibility rule.
        seed: Of windows and splits.
        wanted: Folders to import by name; None for all known ones that are there.
        more: Records of the user's own folders (`importers.import_class_folders`), split like the others.

    Returns:
        The records with their splits, and notes for the user about what was skipped or left out.
    """
    imported, notes = import_sources(root, wanted)
    merged, joined = merge_near_groups([*imported, *more], root)
    if joined:
        notes.append(f"{joined} groups joined to others because they hold near-duplicate images")
    settings = settings or VisibilitySettings()
    records, said = apply_visibility(merged, root, settings, seed)
    records += import_phantom(settings.phantom_frames, seed)
    return split_by_group(records, seed), notes + said
