"""Moving and single frames of the phantom: `Phantom` plays a script, `training_frames` deals out single frames."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom.anatomy import random_anatomy
from edge.capture.phantom.effects import Look, random_look
from edge.capture.phantom.render import Renderer, Truth
from edge.capture.phantom.script import SCENES, Script, State, default_script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge.capture.phantom.texture import Bytes
    from edge.capture.phantom.variety import Variety

_LEAST, _MOST = 64, 4096  # frame sides in pixels


def _check_detail(detail: int) -> None:
    if not 128 <= detail <= 2048:  # noqa: PLR2004 # coarser is no larynx, finer fits no memory
        raise ValueError(f"the phantom's detail is {detail} pixels: give 128 to 2048")


class Phantom:
    """A synthetic examination.

    Args:
        width: frame width in pixels, 64 to 4096.
        height: frame height in pixels, 64 to 4096.
        seed: anatomy, look, camera path and timing; 0 and up.
        script: what happens; the default is about a minute.
        look: scope and camera; by default a colour scope with a round image, varied by the seed.
        detail: size of the larynx plate in pixels, 128 to 2048: finer is slower to set up, not to render.

    Raises:
        ValueError: a size, seed or detail out of range.
    """

    def __init__(
        self,
        *,
        width: int = 640,
        height: int = 480,
        seed: int = 0,
        script: Script | None = None,
        look: Look | None = None,
        detail: int = 900,
    ) -> None:
        for name, value in (("width", width), ("height", height)):
            if not _LEAST <= value <= _MOST:
                raise ValueError(f"the phantom's {name} is {value} pixels: give {_LEAST} to {_MOST}")
        _check_detail(detail)
        if seed < 0:
            raise ValueError(f"the phantom's seed is {seed}: give 0 or more")
        self.script = default_script(seed) if script is None else script
        self.duration = self.script.duration
        if look is None:
            rng = np.random.default_rng([seed, 51])
            look = Look(
                upside_down=bool(rng.random() < 0.35),  # noqa: PLR2004 # rigid scopes are the rarer ones
                aperture_radius=float(rng.uniform(0.47, 0.495)),
                falloff=float(rng.uniform(0.35, 0.65)),
                gain=float(rng.uniform(1.2, 1.45)),
                shine=float(rng.uniform(0.8, 1.2)),
            )
        self.look = look
        self._renderer = Renderer(random_anatomy(seed), look, width, height, detail=detail)

    def render(self, t: float, *, truth: bool = True) -> tuple[Bytes, Truth | None]:
        """Draw the frame at `t` seconds: a pure function of the constructor's arguments and `t`.

        Args:
            t: seconds from the start, finite; the script loops.
            truth: also work out what the frame shows.

        Returns:
            BGR uint8 (H, W, 3), and the truth or None.

        Raises:
            ValueError: `t` is not finite.
        """
        if not np.isfinite(t):
            raise ValueError(f"the phantom cannot draw time {t}: give finite seconds")
        scene, state = self.script.at(t)
        return self._renderer.render(scene, state, t, truth=truth)


_PER_LARYNX = 10  # frames drawn of one anatomy and look before the next
_SIZES = ((256, 256), (320, 320), (320, 240), (384, 288), (400, 300), (256, 384), (448, 252))
_VIEWS = {  # scene: share of the frames
    "breathing": 0.20,
    "phonation": 0.18,
    "closed": 0.06,
    "blood": 0.04,
    "glare": 0.03,
    "fog": 0.03,
    "epiglottis": 0.12,
    "pyriform": 0.08,
    "wall": 0.06,
    "trachea": 0.08,
    "mouth": 0.05,
    "pharynx": 0.04,
    "out_of_body": 0.03,
}


def _random_state(rng: np.random.Generator, scene: str) -> State:
    """A view of `scene` with every number varied widely."""
    own = SCENES[scene]
    sometimes = rng.random(6)
    spread = 0.30 if own.room + own.mouth + own.trachea == 0 else 0.2
    return replace(
        own,
        x=own.x * float(rng.choice([-1.0, 1.0])) + float(rng.normal(0, spread * own.span)),
        y=own.y + float(rng.normal(0, spread * own.span)),
        span=own.span * float(np.exp(rng.normal(0.05, 0.38))),
        roll=own.roll + float(rng.normal(0, 0.35)),
        tilt_x=float(rng.normal(0, 0.12)),
        tilt_y=float(rng.normal(0, 0.15)),
        opening=max(0.0, own.opening * float(rng.uniform(0.2, 1.6)) + float(rng.normal(0, 0.01))),
        voice=own.voice * float(rng.uniform(0.3, 1.8)),
        epiglottis=own.epiglottis * float(rng.uniform(0.62, 1.15))
        + (float(rng.uniform(0, 0.5)) if sometimes[0] < 0.25 else 0.0),  # noqa: PLR2004
        near=float(rng.uniform(0, 1.5)),
        fog=own.fog * float(rng.uniform(0.4, 1.1)) + (float(rng.uniform(0, 0.4)) if sometimes[1] < 0.12 else 0.0),  # noqa: PLR2004
        smear=own.smear * 0.6 + (float(rng.uniform(0, 0.45)) if sometimes[2] < 0.18 else 0.0),  # noqa: PLR2004
        glare=own.glare * float(rng.uniform(0.4, 1.2)) + (float(rng.uniform(0.1, 0.7)) if sometimes[3] < 0.10 else 0.0),  # noqa: PLR2004
        blood=own.blood * float(rng.uniform(0.4, 1.3)) + (float(rng.uniform(0.1, 0.8)) if sometimes[4] < 0.10 else 0.0),  # noqa: PLR2004
        mucus=float(rng.uniform(0, 1)) if sometimes[5] < 0.2 else 0.0,  # noqa: PLR2004
    )


def training_frames(
    n: int, seed: int, *, detail: int = 640, variety: Variety | None = None
) -> Iterator[tuple[Bytes, Truth]]:
    """Deal out `n` single frames in which everything varies: anatomy, scope, pose, distance, light, colour, defects.

    About half show the folds. Ten neighbouring frames share anatomy and scope (keep them on one side of a split).
    The same arguments give the same frames.

    Args:
        n: how many, 0 or more.
        seed: 0 or more.
        detail: size of the larynx plate in pixels, 128 to 2048; larger is finer and slower.
        variety: vary as widely as that says, and give the truth's `parts` too; None for what a good examination shows.

    Yields:
        BGR uint8 (H, W, 3) of varying size, and its truth.

    Raises:
        ValueError: `n` or `seed` is negative, or `detail` out of range.
    """
    if n < 0 or seed < 0:
        raise ValueError(f"asked for {n} phantom frames with seed {seed}: neither may be negative")
    _check_detail(detail)
    return _deal(n, seed, detail) if variety is None else _deal_widely(n, seed, detail, variety)


def _deal(n: int, seed: int, detail: int) -> Iterator[tuple[Bytes, Truth]]:
    names, shares = list(_VIEWS), np.array(list(_VIEWS.values()))
    renderer: Renderer | None = None
    for index in range(n):
        rng = np.random.default_rng([seed, 61, index])
        if index % _PER_LARYNX == 0 or renderer is None:
            width, height = _SIZES[int(rng.integers(len(_SIZES)))]
            anatomy = random_anatomy(int(rng.integers(1, 2**31)))
            renderer = Renderer(anatomy, random_look(rng), width, height, detail=detail)
        scene = str(rng.choice(names, p=shares / shares.sum()))
        image, truth = renderer.render(scene, _random_state(rng, scene), float(rng.uniform(0, 1000)))
        yield image, _asked_for(truth)


def _deal_widely(n: int, seed: int, detail: int, variety: Variety) -> Iterator[tuple[Bytes, Truth]]:
    renderer: Renderer | None = None
    for index in range(n):
        rng = np.random.default_rng([seed, 62, index])
        if index % _PER_LARYNX == 0 or renderer is None:
            width, height = _SIZES[int(rng.integers(len(_SIZES)))]
            anatomy = variety.anatomy(int(rng.integers(1, 2**31)))
            renderer = Renderer(anatomy, variety.look(rng, anatomy), width, height, detail=detail)
        scene, state = variety.view(rng)
        t = float(rng.uniform(0, 1000))
        things = variety.things(rng, renderer.camera(state, t))
        image, truth = renderer.render(scene, state, t, parts=True, things=things)
        yield image, _asked_for(truth)


def _asked_for(truth: Truth | None) -> Truth:
    if truth is None:  # pragma: no cover
        raise AssertionError
    return truth
