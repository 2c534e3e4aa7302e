"""What a pixel of the phantom shows, as numbers of one map."""

from __future__ import annotations

from enum import IntEnum


class Part(IntEnum):
    """Values of `Truth.parts`."""

    OUTSIDE = 0
    """Beyond the aperture."""
    FOLDS = 1
    GLOTTIS = 2
    LESION = 3
    FALSE_FOLDS = 4
    VESTIBULE = 5
    """Mucosa inside the larynx' entrance that is none of the others."""
    ARYEPIGLOTTIC = 6
    ARYTENOIDS = 7
    EPIGLOTTIS = 8
    VALLECULA = 9
    PYRIFORM = 10
    PHARYNX = 11
    TONGUE = 12
    TEETH = 13
    PALATE = 14
    OESOPHAGUS = 15
    TRACHEA = 16
    """Windpipe and bronchi from inside; seen through the folds it is the glottis."""
    NOSE = 17
    ROOM = 18
    TUBE = 19
    INSTRUMENT = 20
    BLADE = 21
    """A laryngoscope's tube or blade around the view."""
    BLOOD = 22
    MUCUS = 23
    GLARE = 24
    """What burns the picture out, or a drop on the lens."""
