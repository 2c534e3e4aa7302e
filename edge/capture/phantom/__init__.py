"""The phantom: a rendered larynx that breathes, speaks and misbehaves on a seeded script, with every frame's truth.

It is the demo's camera, the tests' oracle and a source of labelled training images. Needs numpy and OpenCV only.
"""

from edge.capture.phantom.effects import Look
from edge.capture.phantom.generate import Phantom, training_frames
from edge.capture.phantom.parts import Part
from edge.capture.phantom.render import Truth
from edge.capture.phantom.script import SCENES, Script, Segment, State, default_script
from edge.capture.phantom.variety import Variety

__all__ = [
    "SCENES",
    "Look",
    "Part",
    "Phantom",
    "Script",
    "Segment",
    "State",
    "Truth",
    "Variety",
    "default_script",
    "training_frames",
]
