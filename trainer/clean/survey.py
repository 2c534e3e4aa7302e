"""What the model and the fingerprints say about every frame: wrong, unsure, unlike anything known, or seen twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trainer.console import Meter
from trainer.data.hashing import fingerprint, near_pairs, stack
from trainer.data.types import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge.analysis import Analyser
    from trainer.clean.frames import Frame
    from trainer.data.types import Image

THUMB = 128  # pixels of the longer side


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame, looked at.

    Attributes:
        frame: which.
        score: of the finding, 0..1; None without a model, or where the frame cannot be read.
        verdict: the finding, the other label or `uncertain`, as a device would say; "" without a model.
        reasons: why the device would not judge it: of the picture (blurred, dark, ...) or of the model (`unfamiliar`,
            `unsupported`).
        fault: why it cannot be read; "" where it can.
        thumb: JPEG of it, at most `THUMB` pixels; empty where it cannot be read.
    """

    frame: Frame
    score: float | None
    verdict: str
    reasons: tuple[str, ...]
    fault: str
    thumb: bytes

    @property
    def wrong(self) -> bool:
        """The model says the opposite of the label, and is sure of it."""
        return self.frame.labelled and self.verdict not in ("", "uncertain", self.frame.record.label)

    @property
    def odd(self) -> bool:
        """The model does not know what to make of it."""
        return "unfamiliar" in self.reasons or "unsupported" in self.reasons

    @property
    def surprise(self) -> float:
        """How far the score is from the label, 0..1; of an unlabelled frame how unsure it is."""
        if self.score is None:
            return 0.0
        if not self.frame.labelled:
            return 1.0 - 2.0 * abs(self.score - 0.5)
        return 1.0 - self.score if self.frame.record.label == "folds" else self.score


@dataclass(frozen=True, slots=True)
class Survey:
    """A whole folder, looked at.

    Attributes:
        root: the folder.
        seen: its frames, in their order.
        twins: places in `seen` of frames that look alike, each cluster once, the largest first.
        model: name and version of the bundle; "" without.
        finding: the label that is looked for.
    """

    root: Path
    seen: list[Seen]
    twins: list[list[int]] = field(default_factory=list)
    model: str = ""
    finding: str = "folds"

    def conflicting(self, cluster: Sequence[int]) -> bool:
        """Whether frames that look alike have different labels."""
        return len({self.seen[k].frame.record.label for k in cluster if self.seen[k].frame.labelled}) > 1

    def leaking(self, cluster: Sequence[int]) -> bool:
        """Whether frames that look alike belong to different groups: a split could put them on both sides."""
        return len({self.seen[k].frame.record.group for k in cluster}) > 1

    def queue(self, most: int | None = None) -> list[int]:
        """Frames in the order in which a person should look at them.

        First those that the model contradicts, then odd and unsure ones, then the rest from the most surprising on;
        of a cluster of near-duplicates only the first, then the others at the end.

        Args:
            most: how many; None for all.
        """
        copies = {k for cluster in self.twins for k in cluster[1:]}

        def rank(k: int) -> tuple[bool, int, float]:
            seen = self.seen[k]
            kind = 0 if seen.wrong else 1 if seen.odd or not seen.frame.labelled else 2
            return k in copies, kind, -seen.surprise

        order = sorted((k for k, seen in enumerate(self.seen) if not seen.fault), key=rank)
        return order[:most]


def look(frames: Sequence[Frame], root: Path, analyser: Analyser | None, *, twins: bool = True) -> Survey:
    """Look at every frame once.

    Args:
        frames: which.
        root: their data root.
        analyser: the model, as on a device; None for none.
        twins: also search for near-duplicates.
    """
    seen: list[Seen] = []
    prints = []
    readable: list[int] = []
    with Meter("looking at the images", len(frames)) as meter:
        for k, frame in enumerate(frames):
            meter.advance(1)
            try:
                image = frame.read(root)
            except DataError as error:
                seen.append(Seen(frame, None, "", (), str(error), b""))
                continue
            if twins:
                prints.append(fingerprint(image))
                readable.append(k)
            seen.append(_judge(frame, image, analyser))
    clusters = _clusters(list(near_pairs(stack(prints))), readable) if prints else []
    if analyser is None:
        return Survey(root, seen, clusters)
    manifest = analyser.manifest
    return Survey(root, seen, clusters, f"{manifest.name} {manifest.version}", manifest.finding)


def _judge(frame: Frame, image: Image, analyser: Analyser | None) -> Seen:
    thumb = jpeg(image, THUMB, 78)
    if analyser is None:
        return Seen(frame, None, "", (), "", thumb)
    said = analyser.analyse(np.ascontiguousarray(image))
    return Seen(frame, said.score, said.verdict, tuple(said.quality.reasons), "", thumb)


def jpeg(image: Image, side: int, quality: int = 90) -> bytes:
    """JPEG of an image, its longer side at most `side` pixels."""
    scale = min(1.0, side / max(image.shape[:2]))
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def _clusters(pairs: Sequence[tuple[int, int]], places: Sequence[int]) -> list[list[int]]:
    """Connected components of pairs, the largest first, as places among all frames."""
    parent: dict[int, int] = {}

    def find(k: int) -> int:
        parent.setdefault(k, k)
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for i, j in pairs:
        first, second = sorted((find(i), find(j)))
        parent[second] = first
    found: dict[int, list[int]] = {}
    for k in sorted(parent):
        found.setdefault(find(k), []).append(places[k])
    return sorted(found.values(), key=lambda cluster: (-len(cluster), cluster[0]))
