"""Rectangles in pixels and in fractions of a frame."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in pixels of the camera's frame: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int

    def as_fractions(self, frame_width: int, frame_height: int) -> tuple[float, float, float, float]:
        """The same rectangle as fractions of the frame, the form that goes on the wire."""
        return (self.x / frame_width, self.y / frame_height, self.width / frame_width, self.height / frame_height)

    def clipped(self, frame_width: int, frame_height: int) -> Box:
        """The part of the rectangle that lies inside the frame."""
        left, top = max(0, self.x), max(0, self.y)
        right, bottom = min(frame_width, self.x + self.width), min(frame_height, self.y + self.height)
        return Box(left, top, max(0, right - left), max(0, bottom - top))
