"""Whether a source still lives, or shows the same image again and again.

About a hundred small patches are cut out of a frame at its own resolution, so that the sensor's noise is in them as it
came. Three things are asked of them over time:

1. Does anything move? A patch's mean is far less noisy than its pixels, and how noisy is known from the pixels: where
   the means differ from those of a while ago by more than noise explains, the source lives. Nobody holds a scope still:
   hand, breath and pulse move every patch that has any structure within a second.
2. If nothing moves: is there noise? A sensor's noise is new in every frame. None, or next to none, is a digital repeat.
3. If nothing moves, but there is noise: is all of the image's grain renewed? A paused scope's picture that a frame
   grabber digitises anew has the grabber's noise, but its own sensor's noise is baked in. In the smoothest patches of a
   living image, grain within a frame and change between frames are the same thing; there, more grain than change is a
   paused picture.

What cannot be told: a paused picture whose baked-in grain is weaker than the grabber's noise, or is levelled by JPEG
compression, looks as a living but motionless scene does, and is taken for one: to call a living image frozen would
hide a finding. A motionless living scene that is fine-grained everywhere would be called frozen. Up to a tenth of the
patches may change nevertheless, so that a clock drawn over a paused picture does not make it live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PATCH = 8  # pixels a side
_COLUMNS, _ROWS = 12, 9  # patches
_MARGIN = 0.08  # of the frame on each side: there is seldom anything to see
_MOVED = 20.0  # squared change of a patch's mean, in units of what noise explains
_CHANGING = 0.1  # share of the patches that may move in a frozen image
_SILENT = 0.12  # mean squared change of a pixel, grey levels: less is no sensor's noise
_BAKED = 1.6  # grain within the frame over change between frames, as variances
_LIT = (12, 243)  # grey levels between which noise is neither cut off below nor above
_EVERY_S = 0.1  # time between two looks; one by one once it is frozen, so that life is seen at once
_EARLY_S = 0.004  # a frame that comes a little before its time is looked at all the same
_WINDOW = 0.5  # of the time after which an image is called frozen: how long noise is gathered before it is judged


def _places(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Where the patches' pixels lie in a frame.

    Args:
        shape: of the frame, (height, width, 3).

    Returns:
        Indices (rows, columns, 8, 8) of green values in the frame laid flat; fewer patches of a small frame.
    """
    height, width = shape[:2]

    def places(length: int, count: int) -> NDArray[np.intp]:
        count = max(1, min(count, length // _PATCH))
        first = min(int(length * _MARGIN), (length - _PATCH * count) // 2)
        starts = np.linspace(max(0, first), max(0, length - _PATCH - first), count).astype(np.intp)
        return np.asarray(np.minimum(starts[:, None] + np.arange(_PATCH), length - 1))

    rows, columns = places(height, _ROWS), places(width, _COLUMNS)
    return np.asarray((rows[:, None, :, None] * width + columns[None, :, None, :]) * 3 + 1)


class FrozenDetector:
    """Tells a frozen source from a living one, by the rules above.

    Args:
        seconds: how long nothing may live before the image is called frozen.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Forget everything: another source."""
        self._still_since_s = 0.0
        self._last_s = 0.0
        self._shape: tuple[int, ...] = ()
        self._places = np.zeros((0, 0, _PATCH, _PATCH), np.intp)
        self._anchor: NDArray[np.float32] | None = None  # patch means when it came to rest
        self._frozen = False
        self._begin(np.zeros((0, 0, 0, 0), np.float32), 0.0)

    def _begin(self, patches: NDArray[np.float32], at_s: float) -> None:
        self._reference, self._window_s = patches, at_s
        self._grain = np.zeros(patches.shape[:2], np.float32)
        self._renewed = np.zeros(patches.shape[:2], np.float32)
        self._change, self._frames = 0.0, 0

    def update(self, image: NDArray[np.uint8], at_s: float) -> bool:
        """Take in a frame.

        Args:
            image: uint8 (height, width, 3) BGR. Another size than the last one's is another source.
            at_s: when it was taken, seconds. An earlier time than the last one's is another source.

        Returns:
            Whether the source has been frozen for `seconds`.
        """
        again = self._anchor is not None and at_s >= self._last_s and image.shape == self._shape
        said = self._frozen and at_s - self._still_since_s >= self._seconds
        if again and not said and at_s - self._last_s < _EVERY_S - _EARLY_S:
            return False
        if image.shape != self._shape:
            self._shape, self._places = image.shape, _places(image.shape)
        patches = image.reshape(-1).take(self._places, mode="clip").astype(np.float32)
        means = _means(patches)
        if self._anchor is None or not again:
            self._rest(patches, means, at_s)
            return False
        self._last_s = at_s
        delta = patches - self._reference
        drift = _means(delta)
        noise = _means(np.square(delta - drift[:, :, None, None]))
        explained = np.maximum(noise, 0.1) / _PATCH**2
        moved = np.maximum(np.square(drift) / explained, np.square(means - self._anchor) / explained) > _MOVED
        if moved.mean() > _CHANGING:
            self._rest(patches, means, at_s)
            return False
        changes = np.sort(_means(np.square(delta)), axis=None)  # np.median would load half of numpy here
        self._change += float(changes[len(changes) // 2])
        self._grain += _means(np.square(_fine(patches)))
        self._renewed += _means(np.square(_fine(delta))) / 2  # both frames of the difference are noisy
        self._frames += 1
        if at_s - self._window_s >= _WINDOW * self._seconds:
            self._frozen = self._judge(means)
            self._begin(patches, at_s)
        return self._frozen and at_s - self._still_since_s >= self._seconds

    def _rest(self, patches: NDArray[np.float32], means: NDArray[np.float32], at_s: float) -> None:
        self._anchor, self._still_since_s, self._last_s, self._frozen = means, at_s, at_s, False
        self._begin(patches, at_s)

    def _judge(self, means: NDArray[np.float32]) -> bool:
        if self._change < _SILENT * self._frames:
            return True
        lit = (means > _LIT[0]) & (means < _LIT[1])
        if lit.mean() < _CHANGING:
            return False
        smoothest = np.quantile(self._grain[lit] / np.maximum(self._renewed[lit], 1e-6), 0.1)
        return bool(smoothest > _BAKED)


def _means(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of each patch, float32 (rows, columns); as a product, which takes a tenth of numpy's own mean."""
    rows, columns, high, wide = patches.shape
    size = high * wide
    return np.asarray(patches.reshape(-1, size) @ np.full(size, 1 / size, np.float32), np.float32).reshape(
        rows, columns
    )


def _fine(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of patches after smooth shading: differences of diagonal pairs, of the variance of one pixel."""
    a, b = patches[:, :, :-1, :-1], patches[:, :, :-1, 1:]
    c, d = patches[:, :, 1:, :-1], patches[:, :, 1:, 1:]
    return np.asarray((a - b - c + d) / 2, np.float32)
