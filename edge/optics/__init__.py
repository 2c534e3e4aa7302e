"""What the scope's optics did to a frame: where its bright image lies, and whether it is fit to be judged."""

from edge.optics.aperture import Aperture, ApertureTracker, find_aperture
from edge.optics.frozen import FrozenDetector
from edge.optics.quality import Quality, QualityLimits, QualityMeter, measure_quality

__all__ = [
    "Aperture",
    "ApertureTracker",
    "FrozenDetector",
    "Quality",
    "QualityLimits",
    "QualityMeter",
    "find_aperture",
    "measure_quality",
]
