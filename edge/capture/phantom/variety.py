"""Wide domain randomisation: every clinic's larynges, scopes and mishaps, and more, for pictures to learn from.

The demo's phantom looks like one good examination. Here nothing but the anatomy's order is kept: colours, shapes,
distances, light and whatever lies in the way vary farther than in life, so that only the anatomy tells where folds are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom.anatomy import Anatomy, random_anatomy
from edge.capture.phantom.effects import Look, random_look
from edge.capture.phantom.objects import FLUIDS, TOOLS, Blade, Pool, Thing, Tool
from edge.capture.phantom.script import SCENES, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.capture.phantom.camera import Camera

    Rgb = tuple[float, float, float]

VIEWS = {  # scene: share of the frames; about half of them shows folds
    "far": 0.19,
    "breathing": 0.11,
    "phonation": 0.09,
    "paramedian": 0.06,
    "closed": 0.05,
    "glare": 0.02,
    "fog": 0.01,
    "epiglottis": 0.09,
    "squeeze": 0.04,
    "pyriform": 0.04,
    "arytenoid": 0.04,
    "vallecula": 0.03,
    "wall": 0.02,
    "trachea": 0.07,
    "bronchi": 0.03,
    "gullet": 0.03,
    "mouth": 0.02,
    "pharynx": 0.02,
    "nose": 0.02,
    "teeth": 0.01,
    "out_of_body": 0.01,
}
_LUMA = np.array([0.114, 0.587, 0.299])
_USUAL = 0.54  # brightness of the mucosa that a gain of 1 suits
_ELSEWHERE = {"trachea", "bronchi", "gullet", "mouth", "pharynx", "nose", "teeth", "out_of_body"}
_SOMETIMES = {  # how often each comes into a picture, wherever it is
    "instruments": 0.20,
    "hidden": 0.09,  # and so near, and there, that it hides the folds
    "blade": 0.08,
    "fluids": 0.13,
    "smoke": 0.05,
    "drops": 0.06,
}


@dataclass(frozen=True, slots=True)
class Variety:
    """What varies; each can be switched off, and then is as in the demo's phantom.

    Attributes:
        mucosa: colours of mucosa and folds, vessels, wetness, the walls' relief.
        folds: widths, bowed and oedematous folds, nodules, polyps, white plaques; one fold that stays behind.
        epiglottis: flat, omega-shaped, slanted; hanging into any view.
        squeeze: false folds that come over the true ones.
        instruments: forceps, needle, laser fibre, suction, swab, a breathing tube.
        blade: the metal around the view of direct laryngoscopy.
        fluids: pools of blood, mucus and foam.
        smoke: of a laser.
        drops: of water on the lens.
        light: casts of colour, narrow-band imaging.
        places: nose, teeth, gullet, bronchi.
        walls: a throat whose walls come towards the camera in wide views.
    """

    mucosa: bool = True
    folds: bool = True
    epiglottis: bool = True
    squeeze: bool = True
    instruments: bool = True
    blade: bool = True
    fluids: bool = True
    smoke: bool = True
    drops: bool = True
    light: bool = True
    places: bool = True
    walls: bool = True

    @classmethod
    def without(cls, *names: str) -> Variety:
        """Everything but the parts named.

        Raises:
            ValueError: there is no part of that name.
        """
        known = [f.name for f in fields(cls)]
        for name in names:
            if name not in known:
                raise ValueError(f"the phantom's variety has no {name!r}: choose from {', '.join(known)}")
        return cls(**dict.fromkeys(names, False))

    def anatomy(self, seed: int) -> Anatomy:
        """Draw a larynx; the same seed gives the same one."""
        anatomy = random_anatomy(seed)
        rng = np.random.default_rng([seed, 12])
        mucosa, fold = _mucosa(rng), float(rng.uniform())
        shape = rng.uniform(size=8)
        if self.mucosa:
            anatomy = replace(
                anatomy, mucosa=mucosa, fold_colour=_fold_colour(rng, mucosa, fold),
                vessels=float(rng.uniform(0.1, 1.6)), wetness=float(rng.uniform(0.1, 1.6)),
                creases=float(rng.uniform(0.2, 1.4)),
                lesion_colour=_mixed(rng, mucosa, (0.80, 0.85, 0.92)),
            )  # fmt: skip
        if self.folds:
            kind = str(rng.choice(["plain", "thin", "swollen"], p=[0.6, 0.2, 0.2]))
            wide = {"plain": 1.0, "thin": 0.78, "swollen": 1.25}[kind] * float(rng.uniform(0.88, 1.12))
            anatomy = replace(
                anatomy, fold_width=anatomy.fold_width * wide,
                fold_bulge=anatomy.fold_bulge * {"plain": 1.0, "thin": 0.6, "swollen": 1.9}[kind],
                bow=float(rng.uniform(0.01, 0.035)) if kind == "thin" else 0.0,
                more_lesions=_lesions(rng), plaques=float(rng.uniform(0.3, 1.0)) if shape[0] < 0.15 else 0.0,  # noqa: PLR2004
                false_fold_height=float(rng.uniform(0.06, 0.26)), false_fold_reach=float(rng.uniform(-0.02, 0.07)),
                arytenoid_size=float(rng.uniform(0.09, 0.165)), ring_u=float(rng.uniform(0.56, 0.82)),
            )  # fmt: skip
        if self.epiglottis:
            omega = shape[1] < 0.4  # noqa: PLR2004
            anatomy = replace(
                anatomy, epiglottis_width=float(rng.uniform(0.55, 0.8) if omega else rng.uniform(0.85, 1.5)),
                epiglottis_curl=float(rng.uniform(0.7, 1.1) if omega else rng.uniform(0.05, 0.7)),
                epiglottis_lean=float(rng.normal(0, 0.12)), epiglottis_v=float(rng.uniform(-1.15, -0.80)),
            )  # fmt: skip
        return anatomy

    def look(self, rng: np.random.Generator, anatomy: Anatomy) -> Look:
        """Draw a scope and camera, exposed more or less rightly for a larynx."""
        look = random_look(rng)
        draw = rng.uniform(size=4)
        look = replace(
            look, walls=self.walls, tube=self.instruments and draw[0] < 0.08, falloff=float(rng.uniform(0.05, 0.75)),  # noqa: PLR2004
            surround=look.surround if draw[3] < 0.5 else 0,  # noqa: PLR2004
        )  # fmt: skip
        if self.light and not (look.grey and draw[1] < 0.4):  # noqa: PLR2004 # more colour than in the plain phantom
            look = replace(
                look, grey=False, mixer=_narrow_band(rng) if draw[2] < 0.08 else _cast(rng),  # noqa: PLR2004
                saturation=float(rng.uniform(0.55, 1.3)), gamma=float(rng.uniform(0.6, 1.0)),
            )  # fmt: skip
        mixer = np.eye(3) if look.mixer is None else np.array(look.mixer).reshape(3, 3)
        bright = float(_LUMA @ mixer @ np.array(anatomy.mucosa))
        usual = float(np.clip(look.gain, 0.62 if look.grey else 0.85, 1.6))
        return replace(look, gain=float(np.clip(usual * (_USUAL / max(bright, 0.1)) ** 0.9, 0.5, 3.0)))

    def view(self, rng: np.random.Generator) -> tuple[str, State]:
        """Draw what is to be seen: a scene, and its numbers varied widely."""
        shares = {name: share for name, share in VIEWS.items() if self._has(name)}
        names, weights = list(shares), np.array(list(shares.values()))
        scene = str(rng.choice(names, p=weights / weights.sum()))
        own = SCENES[scene]
        away = scene in _ELSEWHERE
        draw = rng.uniform(size=8)
        loose = 0.28 if scene in ("far", "breathing", "phonation", "paramedian", "closed") else 0.2
        wider = {"far": 0.16, "pyriform": 0.35, "wall": 0.35}.get(scene, 0.28)
        state = replace(
            own,
            x=own.x * float(rng.choice([-1.0, 1.0])) + float(rng.normal(0, loose * own.span)),
            y=own.y + float(rng.normal(0, loose * own.span)),
            span=own.span * float(np.exp(rng.normal(0.02, wider))),
            roll=own.roll + float(rng.normal(0, 0.45)),
            tilt_x=float(rng.normal(0, 0.14)), tilt_y=float(rng.normal(0, 0.18)),
            opening=max(0.0, own.opening * float(rng.uniform(0.15, 1.6)) + float(rng.normal(0, 0.01))),
            voice=own.voice * float(rng.uniform(0.3, 1.8)),
            lag=own.lag * float(rng.uniform(0.5, 1.2)) * float(rng.choice([-1.0, 1.0])),
            near=float(rng.uniform(0, 1.5)),
            epiglottis=own.epiglottis * float(rng.uniform(0.7, 1.25)),
            fog=own.fog * float(rng.uniform(0.3, 1.0)) + (float(rng.uniform(0, 0.4)) if draw[1] < 0.08 else 0.0),  # noqa: PLR2004
            smear=own.smear * 0.6 + (float(rng.uniform(0, 0.4)) if draw[2] < 0.12 else 0.0),  # noqa: PLR2004
            glare=own.glare * float(rng.uniform(0.4, 1.2)) + (float(rng.uniform(0.1, 0.7)) if draw[3] < 0.08 else 0.0),  # noqa: PLR2004
            mucus=float(rng.uniform(0, 1)) if draw[4] < 0.2 else 0.0,  # noqa: PLR2004
        )  # fmt: skip
        if self.folds and not away and scene != "paramedian":
            state = replace(state, lag=float(np.clip(rng.normal(0, 0.15), -0.6, 0.6)))
        if self.epiglottis and not away and draw[0] < 0.35 and scene != "epiglottis":  # noqa: PLR2004
            state = replace(state, epiglottis=float(rng.uniform(0.05, 0.75)))
        if self.squeeze and scene in ("phonation", "closed") and draw[5] < 0.3:  # noqa: PLR2004
            state = replace(state, squeeze=float(rng.uniform(0.0, 0.12)))
        if scene == "squeeze":
            state = replace(state, squeeze=float(rng.uniform(0.19, 0.30)), opening=0.0, voice=0.0)
        if self.fluids and draw[6] < 0.08:  # noqa: PLR2004
            state = replace(state, blood=float(rng.uniform(0.15, 0.9)))
        if self.smoke and rng.random() < _SOMETIMES["smoke"]:
            state = replace(state, smoke=float(rng.uniform(0.2, 1.0)))
        if self.drops and rng.random() < _SOMETIMES["drops"]:
            state = replace(state, drops=float(rng.uniform(0.1, 1.0)))
        return scene, state

    def _has(self, scene: str) -> bool:
        if scene in ("nose", "teeth", "gullet", "bronchi"):
            return self.places
        return scene != "squeeze" or self.squeeze

    def things(self, rng: np.random.Generator, camera: Camera) -> list[Thing]:
        """Draw what lies before the tissue; `camera` says where the folds would be."""
        found: list[Thing] = []
        folds_x, folds_y = camera.to_image(np.zeros(1, np.float32), np.zeros(1, np.float32))
        middle = (
            float(folds_x[0] - camera.centre[0]) / camera.radius,
            float(folds_y[0] - camera.centre[1]) / camera.radius,
        )
        length = 0.9 / camera.span  # of the folds, in radii
        draws = {name: float(rng.random()) for name in ("fluids", "hidden", "instruments", "blade")}
        if self.fluids and draws["fluids"] < _SOMETIMES["fluids"]:
            spread = float(rng.choice([0.3, 0.9]))
            at = (middle[0] + float(rng.normal(0, spread)), middle[1] + float(rng.normal(0, spread)))
            found.append(_pool(rng, at, float(rng.uniform(0.12, 0.5))))
        if draws["hidden"] < _SOMETIMES["hidden"] and max(map(abs, middle)) < 1.1:  # noqa: PLR2004 # else nothing is there
            reach = float(rng.uniform(0.75, 1.2)) * length
            kinds: list[Callable[[], Thing]] = []
            if self.fluids:
                kinds.append(lambda: _pool(rng, middle, reach * 0.8))
            if self.instruments:
                kinds.append(
                    lambda: _tool(rng, middle, min(1.2, reach), str(rng.choice(["suction", "swab", "forceps"])))
                )
            if kinds:
                found.append(kinds[int(rng.integers(len(kinds)))]())
        elif self.instruments and draws["instruments"] < _SOMETIMES["instruments"]:
            for _ in range(int(rng.choice([1, 1, 1, 2]))):
                spread = float(rng.uniform(0.1, 0.8))
                at = (middle[0] + float(rng.normal(0, spread)), middle[1] + float(rng.normal(0, spread)))
                at = (float(np.clip(at[0], -0.9, 0.9)), float(np.clip(at[1], -0.9, 0.9)))
                found.append(
                    _tool(rng, at, float(np.exp(rng.uniform(np.log(0.06), np.log(0.40)))), str(rng.choice(TOOLS)))
                )
        if self.blade and draws["blade"] < _SOMETIMES["blade"]:
            found.append(_blade(rng))
        return found


def _rgb(values: object) -> Rgb:
    b, g, r = (float(v) for v in np.clip(np.asarray(values, np.float64), 0.03, 0.97))
    return b, g, r


def _mucosa(rng: np.random.Generator) -> Rgb:
    """Any mucosa: hue from purple over red to yellow, pale to saturated, as BGR."""
    hue, pale, value = rng.normal(9, 12), rng.uniform(0.22, 0.72), rng.uniform(0.55, 0.95)
    hue = float(np.clip(hue, -14, 38))
    low = value * (1 - pale)
    middle = low + (value - low) * abs(hue) / 60.0
    return _rgb((low, middle, value) if hue >= 0 else (middle, low, value))


def _mixed(rng: np.random.Generator, first: Rgb, second: Rgb, low: float = 0.2, high: float = 0.9) -> Rgb:
    share = rng.uniform(low, high)
    return _rgb(np.array(first) * (1 - share) + np.array(second) * share + rng.normal(0, 0.015, 3))


def _fold_colour(rng: np.random.Generator, mucosa: Rgb, kind: float) -> Rgb:
    """White, ivory, rosy, red or greyish folds: `kind` 0..1 says which."""
    value = max(mucosa)
    if kind < 0.45:  # noqa: PLR2004
        return _rgb(np.array([0.80, 0.88, 0.97]) * value * rng.uniform(0.78, 1.0) + rng.normal(0, 0.02, 3))
    if kind < 0.60:  # noqa: PLR2004
        return _rgb(np.array([0.50, 0.75, 0.95]) * value * rng.uniform(0.75, 1.0))
    if kind < 0.85:  # noqa: PLR2004
        return _mixed(rng, mucosa, (0.82 * value, 0.88 * value, 0.97 * value), 0.12, 0.6)
    if kind < 0.93:  # noqa: PLR2004
        return _rgb(np.array(mucosa) * (0.72, 0.70, 0.95))
    return _mixed(rng, mucosa, (0.70 * value, 0.72 * value, 0.76 * value), 0.4, 0.8)


def _lesions(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    kind = str(rng.choice(["none", "nodules", "polyp", "many"], p=[0.72, 0.10, 0.12, 0.06]))
    if kind == "nodules":
        at, radius = float(rng.uniform(-0.22, -0.05)), float(rng.uniform(0.018, 0.035))
        return (1.0, at, radius), (-1.0, at + float(rng.normal(0, 0.02)), radius * float(rng.uniform(0.7, 1.3)))
    if kind == "polyp":
        return ((float(rng.choice([-1.0, 1.0])), float(rng.uniform(-0.3, 0.05)), float(rng.uniform(0.05, 0.12))),)
    if kind == "many":
        return tuple(
            (float(rng.choice([-1.0, 1.0])), float(rng.uniform(-0.36, 0.2)), float(rng.uniform(0.015, 0.07)))
            for _ in range(int(rng.integers(3, 7)))
        )
    return ()


Mixer = tuple[float, float, float, float, float, float, float, float, float]


def _cast(rng: np.random.Generator) -> Mixer:
    """A camera's colour rendition: gains, and a little of each colour in the others."""
    matrix = np.eye(3) + rng.normal(0, 0.03, (3, 3))
    gains = np.exp(rng.normal(0, [0.12, 0.07, 0.07]))
    return _nine(gains[:, None] * matrix)


def _narrow_band(rng: np.random.Generator) -> Mixer:
    """Narrow-band imaging: blue light shown as blue and green, green as red; tissue greenish, vessels brown."""
    blue, green = rng.uniform(1.2, 1.9), rng.uniform(0.9, 1.5)
    return _nine(np.array([[blue, 0.1, 0.0], [blue * 0.9, 0.25, 0.0], [0.0, green, rng.uniform(0, 0.15)]]))


def _nine(matrix: object) -> Mixer:
    a, b, c, d, e, f, g, h, i = (float(v) for v in np.asarray(matrix).ravel())
    return a, b, c, d, e, f, g, h, i


_METALS = ((0.72, 0.74, 0.76), (0.45, 0.47, 0.48), (0.85, 0.88, 0.90), (0.20, 0.21, 0.22), (0.55, 0.66, 0.72))
_PLASTICS = ((0.85, 0.80, 0.75), (0.75, 0.45, 0.15), (0.25, 0.70, 0.85), (0.90, 0.90, 0.92), (0.30, 0.60, 0.25))


def _tool(rng: np.random.Generator, at: tuple[float, float], width: float, kind: str) -> Tool:
    if kind == "swab":
        colour: Rgb = (0.88, 0.90, 0.92)
    else:
        pool = _PLASTICS if kind == "fibre" or (kind == "suction" and rng.random() < 0.4) else _METALS  # noqa: PLR2004
        colour = _rgb(np.array(pool[int(rng.integers(len(pool)))]) * rng.uniform(0.7, 1.05))
    outwards = float(rng.uniform(-3.1, 3.1))
    if np.hypot(*at) > 0.15:  # noqa: PLR2004 # else any direction is outwards
        outwards = float(np.arctan2(at[1], at[0]) + rng.normal(0, 0.6))
    if kind in ("needle", "fibre"):
        width = min(width, 0.14)
    return Tool(
        kind, at, outwards, width, float(rng.uniform(0.05, 0.7)), float(rng.normal(0, 0.10)), colour,
        int(rng.integers(1 << 30)),
    )  # fmt: skip


def _pool(rng: np.random.Generator, at: tuple[float, float], size: float) -> Pool:
    kind = str(rng.choice(FLUIDS, p=[0.45, 0.3, 0.25]))
    colours = {"blood": (0.06, 0.05, 0.45), "mucus": (0.55, 0.74, 0.80), "foam": (0.72, 0.76, 0.82)}
    colour = _rgb(np.array(colours[kind]) * rng.uniform(0.6, 1.1) + rng.normal(0, 0.02, 3))
    return Pool(kind, at, size, colour, int(rng.integers(1 << 30)))


def _blade(rng: np.random.Generator) -> Blade:
    at = (float(rng.normal(0, 0.25)), float(rng.normal(0, 0.25)))
    size = (float(rng.uniform(0.45, 0.95)), float(rng.uniform(0.55, 1.1)))
    colour = _rgb(np.array(_METALS[int(rng.integers(len(_METALS)))]) * rng.uniform(0.4, 0.95))
    return Blade(at, size, float(rng.uniform(-1.6, 1.6)), colour, int(rng.integers(1 << 30)))
