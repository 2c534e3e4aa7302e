"""Frame in, model input out: crop to the aperture, resize, RGB. The one implementation for device and trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.bundle import InputSpec

_INTERPOLATION = {
    "area": cv2.INTER_AREA,
    "linear-area": cv2.INTER_AREA,
    "halves-linear": cv2.INTER_LINEAR,
    "linear": cv2.INTER_LINEAR,
}


class Preprocessor:
    """Turns frames into model inputs in one buffer that is reused: the result is valid until the next call."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._interpolation = _INTERPOLATION[spec.interpolation]
        self._in_two = spec.interpolation == "linear-area"
        self._halves = spec.interpolation == "halves-linear"
        self.buffer = np.zeros((1, spec.height, spec.width, 3), np.uint8)
        """The last model input, uint8 (1, height, width, 3) RGB."""
        self._steps: list[NDArray[np.uint8]] = []
        self.inner = Box(0, 0, spec.width, spec.height)
        """Where in the last model input the picture lies; the rest is black padding."""

    def __call__(self, image: NDArray[np.uint8], box: Box | None = None) -> NDArray[np.uint8]:
        """Fit a part of an image into the model's input.

        Args:
            image: uint8 (height, width, 3) BGR.
            box: the part to use, None for all of it.

        Returns:
            uint8 (1, spec.height, spec.width, 3) RGB, the same memory at each call.
        """
        if box is not None:
            image = image[box.y : box.y + box.height, box.x : box.x + box.width]
        inner = self._fit(image.shape[1], image.shape[0])
        target = self.buffer[0]
        if inner != self.inner:
            target[:] = 0
            self.inner = inner
        between = self._between(image.shape[1], image.shape[0])
        for step, size in enumerate(between):
            if self._halves:  # OpenCV is fast where it halves exactly: an odd last row or column is left out
                image = image[: 2 * size[1], : 2 * size[0]]
            image = self._resize(image, size, cv2.INTER_AREA if self._halves else cv2.INTER_LINEAR, step)
        # Shrinking averages whole pixels as asked; when a small image must grow, only linear interpolation makes sense.
        grows = inner.width > image.shape[1] or inner.height > image.shape[0]
        how = cv2.INTER_LINEAR if grows else self._interpolation
        resized = self._resize(image, (inner.width, inner.height), how, len(between))
        part = target[inner.y : inner.y + inner.height, inner.x : inner.x + inner.width]
        cv2.cvtColor(resized, cv2.COLOR_BGR2RGB, dst=part)  # a fiftieth of what numpy's reversed copy costs
        return self.buffer

    def _between(self, width: int, height: int) -> list[tuple[int, int]]:
        """Width and height of the steps on the way to the size that is wanted."""
        inner, sizes = self.inner, []
        if self._in_two and width > 2 * inner.width and height > 2 * inner.height:
            sizes.append((2 * inner.width, 2 * inner.height))
        while self._halves and width >= 2 * inner.width and height >= 2 * inner.height:
            width, height = width // 2, height // 2
            sizes.append((width, height))
        return sizes

    def _resize(self, image: NDArray[np.uint8], size: tuple[int, int], how: int, step: int) -> NDArray[np.uint8]:
        """Resize into memory of the step's own: fresh arrays of this size are fresh pages from the kernel."""
        shape = (size[1], size[0], 3)
        while len(self._steps) <= step:
            self._steps.append(np.zeros((0, 0, 3), np.uint8))
        if self._steps[step].shape != shape:
            self._steps[step] = np.zeros(shape, np.uint8)
        cv2.resize(image, size, dst=self._steps[step], interpolation=how)
        return self._steps[step]

    def _fit(self, width: int, height: int) -> Box:
        if self._spec.fit == "stretch":
            return Box(0, 0, self._spec.width, self._spec.height)
        scale = min(self._spec.width / width, self._spec.height / height)
        w = min(self._spec.width, max(1, round(width * scale)))
        h = min(self._spec.height, max(1, round(height * scale)))
        return Box((self._spec.width - w) // 2, (self._spec.height - h) // 2, w, h)
