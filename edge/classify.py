"""`foldsight classify`: images through exactly the live path, one line each, and pictures of what was said."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from edge.capture.replay import image_files, read_image
from edge.errors import FoldsightError, SourceError
from edge.overlay import draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from edge.analysis import Analyser, Analysis


def expand(paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """The image files that the paths name; a folder stands for the images in it and below it.

    Yields:
        The file, and what it is called below the folder that was named.

    Raises:
        SourceError: a path is not there, or a folder holds no image.
    """
    for path in paths:
        if path.is_dir():
            folders = [path, *sorted(p for p in path.rglob("*") if p.is_dir())]
            found = [file for folder in folders for file in image_files(folder)]
            if not found:
                raise SourceError(f"{path} holds no images")
            yield from ((file, file.relative_to(path)) for file in found)
        elif path.exists():
            yield path, Path(path.name)
        else:
            raise SourceError(f"{path} is not there: give image files or folders")


def report(analyser: Analyser, path: Path, image: NDArray[np.uint8], analysis: Analysis) -> dict[str, Any]:
    """What the device would say of one image, as a dictionary for JSON.

    Args:
        analyser: what analysed it.
        path: of its file.
        image: uint8 (height, width, 3) BGR.
        analysis: what came of it.
    """
    height, width = image.shape[:2]
    aperture = None if analysis.aperture is None else analysis.aperture.box.as_fractions(width, height)
    labels = analyser.manifest.labels
    return {
        "file": str(path),
        "verdict": analysis.verdict,
        "label": analysis.label,
        "score": round(analysis.score, 4),
        "scores": {label: round(float(s), 4) for label, s in zip(labels, analysis.scores, strict=True)},
        "reasons": list(analysis.quality.reasons),
        "aperture": aperture,
        "regions": [
            {
                "label": region.label,
                "box": [round(value, 4) for value in region.box],
                "centre": [round(value, 4) for value in region.centre],
                "area": round(region.area, 5),
                "score": round(region.score, 4),
            }
            for region in analysis.regions
        ],
        "model": {"name": analyser.manifest.name, "version": analyser.manifest.version},
    }


class Overlays:
    """A folder of pictures with the answers drawn in.

    Args:
        folder: made where it is not there.
        sources: images that are being classified, of which none is ever written over.

    Raises:
        FoldsightError: the folder cannot be written.
    """

    def __init__(self, folder: Path, sources: Iterable[Path]) -> None:
        self._folder = folder
        self._taken = {path.resolve() for path in sources}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, name: Path, picture: NDArray[np.uint8]) -> Path:
        """Write a picture in one step, as PNG; of the same name as its source where no other has that.

        Raises:
            FoldsightError: it cannot be written.
        """
        wanted = self._folder / name.with_suffix(".png")
        path, number = wanted, 2
        while path.resolve() in self._taken:
            path, number = wanted.with_name(f"{wanted.stem}-{number}.png"), number + 1
        self._taken.add(path.resolve())
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as stream:
                stream.write(cv2.imencode(".png", picture)[1].tobytes())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise self._refusal(error) from error
        return path

    def _refusal(self, error: OSError) -> FoldsightError:
        return FoldsightError(f"{self._folder} cannot be written ({error.strerror}): give --overlay another folder")


def run(analyser: Analyser, paths: Iterable[Path], *, as_json: bool, overlay: Path | None = None) -> int:
    """Print a line per image, go on past those that cannot be read, and say how many there were of those.

    Args:
        analyser: judges them.
        paths: files and folders.
        as_json: one JSON object a line.
        overlay: where to write pictures with the answers drawn in.

    Returns:
        The exit code: 1 where any image could not be read.

    Raises:
        FoldsightError: a path is not there, or the folder of overlays cannot be written.
    """
    failed = 0
    files = list(expand(paths))
    overlays = None if overlay is None else Overlays(overlay, [path for path, _ in files])
    maps = analyser.manifest.outputs.maps
    for path, name in files:
        try:
            image = read_image(path)
        except SourceError as error:
            failed += 1
            print(
                json.dumps({"file": str(path), "error": str(error)}) if as_json else f"{path}: error: {error}",
                flush=True,
            )
            continue
        analysis = analyser.analyse(image)
        result = report(analyser, path, image, analysis)
        if overlays is not None:
            picture = draw(image, analysis, [] if maps is None else maps.labels)
            result["overlay"] = str(overlays.write(name, picture))
        print(json.dumps(result) if as_json else _line(result), flush=True)
    return 1 if failed else 0


def _line(result: dict[str, Any]) -> str:
    why = f"  ({', '.join(result['reasons'])})" if result["reasons"] else ""
    where = "".join(
        f"  {region['label']} at {region['centre'][0]:.2f} {region['centre'][1]:.2f}, {region['area']:.1%}"
        for region in result["regions"]
    )
    return f"{result['file']}: {result['verdict']:<9} {result['score']:.3f}{why}{where}"
