"""`foldsight classify`: images through exactly the live path, one line each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edge.capture.replay import image_files, read_image
from edge.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from edge.analysis import Analyser


def expand(paths: Iterable[Path]) -> Iterator[Path]:
    """The image files that the paths name; a folder stands for the images in it and below it.

    Raises:
        SourceError: a path is not there, or a folder holds no image.
    """
    for path in paths:
        if path.is_dir():
            folders = [path, *sorted(p for p in path.rglob("*") if p.is_dir())]
            found = [file for folder in folders for file in image_files(folder)]
            if not found:
                raise SourceError(f"{path} holds no images")
            yield from found
        elif path.exists():
            yield path
        else:
            raise SourceError(f"{path} is not there: give image files or folders")


def classify(analyser: Analyser, path: Path) -> dict[str, Any]:
    """What the device would say of one image file, as a dictionary for JSON.

    Raises:
        SourceError: it is no image that can be read.
    """
    image = read_image(path)
    analysis = analyser.analyse(image)
    height, width = image.shape[:2]
    aperture = None if analysis.aperture is None else analysis.aperture.box.as_fractions(width, height)
    return {
        "file": str(path),
        "verdict": analysis.verdict,
        "label": analysis.label,
        "score": round(analysis.score, 4),
        "scores": {
            label: round(float(s), 4) for label, s in zip(analyser.manifest.labels, analysis.scores, strict=True)
        },
        "reasons": list(analysis.quality.reasons),
        "aperture": aperture,
        "model": {"name": analyser.manifest.name, "version": analyser.manifest.version},
    }


def run(analyser: Analyser, paths: Iterable[Path], *, as_json: bool) -> int:
    """Print a line per image, go on past those that cannot be read, and say how many there were of those.

    Returns:
        The exit code: 1 where any image could not be read.
    """
    failed = 0
    for path in expand(paths):
        try:
            result = classify(analyser, path)
        except SourceError as error:
            failed += 1
            print(
                json.dumps({"file": str(path), "error": str(error)}) if as_json else f"{path}: error: {error}",
                flush=True,
            )
            continue
        if as_json:
            print(json.dumps(result), flush=True)
        else:
            why = f"  ({', '.join(result['reasons'])})" if result["reasons"] else ""
            print(f"{path}: {result['verdict']:<9} {result['score']:.3f}{why}", flush=True)
    return 1 if failed else 0
