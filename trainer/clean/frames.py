"""The images of a folder that is to be looked at, whether or not anyone has labelled them yet."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trainer.data.importers import IMAGE_SUFFIXES
from trainer.data.manifest import Record
from trainer.data.types import LABELS, DataError

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.data.types import Image

UNLABELLED = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One image, or window of one.

    Attributes:
        record: as in a manifest; its label is `UNLABELLED` where nobody has given one.
    """

    record: Record

    @property
    def name(self) -> str:
        """The path, and the window if there is one."""
        return self.record.name()

    @property
    def labelled(self) -> bool:
        """Whether somebody has said what it shows."""
        return self.record.label != UNLABELLED

    def read(self, root: Path) -> Image:
        """Read it, uint8 (H, W, 3) BGR."""
        return self.record.read_image(root)


def find_frames(root: Path, licence: str) -> list[Frame]:
    """Every image below a folder.

    A folder called `folds` or `no_folds` labels what is below it. The first folder below the root is the source (the
    root itself for images that lie in it); the folder of an image is its group, so put each patient's into its own.

    Args:
        root: where to look.
        licence: of the images, for the manifest.

    Raises:
        DataError: there is no folder, or no image in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds the images.")
    frames = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        inside = path.relative_to(root)
        folders = inside.parent.parts
        labels = [part for part in folders if part in LABELS]
        kept = [part for part in folders if part not in LABELS]
        source = kept[0] if kept else root.resolve().name
        # Without a folder of their own, images cannot be told apart by patient: they stay together.
        group = "/".join(kept) if kept else source
        label = labels[-1] if labels else UNLABELLED
        frames.append(Frame(Record(inside.as_posix(), label, group, source, "train", licence)))
    if not frames:
        raise DataError(f"{root}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give the folder with them.")
    return frames
