"""What stands between the larynx and the picture: the scope, its light, the dirt on it, the sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge.capture.phantom.texture import Array, Bytes, cv, smoothstep, value_noise

APERTURES = ("round", "octagon", "square", "none")


@dataclass(frozen=True, slots=True)
class Look:
    """The scope and camera of an examination: fixed for a session.

    Attributes:
        grey: a monochrome (high-speed) camera.
        aperture: one of `APERTURES`.
        aperture_radius: share of the frame's shorter side; above 0.5 the sensor's edge cuts it.
        aperture_at: its centre as shares of width and height.
        edge: softness of its border, share of its radius.
        upside_down: rigid scopes show the anterior commissure below, flexible ones above.
        falloff: how much darker the border is than the middle, 0..1.
        light_at: where the light is brightest, in radii from the centre.
        gain: exposure; 1 is right.
        gamma: tone curve of the camera; below 1 is brighter.
        saturation: 0 grey, 1 as painted.
        tint: factors on blue, green, red.
        shine: strength of wet highlights.
        noise: sensor noise, grey levels (standard deviation).
        soft: constant defocus, pixels at 480 rows.
        sharpen: unsharp masking of the camera's processor.
        surround: grey level outside the aperture.
        tube: a breathing tube lies in the glottis.
        mixer: how the light's colours are shown, nine factors: rows blue, green, red of blue, green, red; None = as
            they are. Narrow-band imaging is one.
        walls: in wide views the throat's walls come towards the camera.
    """

    grey: bool = False
    aperture: str = "round"
    aperture_radius: float = 0.485
    aperture_at: tuple[float, float] = (0.5, 0.5)
    edge: float = 0.02
    upside_down: bool = False
    falloff: float = 0.55
    light_at: tuple[float, float] = (0.0, 0.0)
    gain: float = 1.3
    gamma: float = 0.8
    saturation: float = 1.15
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shine: float = 1.0
    noise: float = 2.5
    soft: float = 0.0
    sharpen: float = 0.0
    surround: int = 4
    tube: bool = False
    mixer: tuple[float, float, float, float, float, float, float, float, float] | None = None
    walls: bool = False

    def __post_init__(self) -> None:
        if self.aperture not in APERTURES:
            raise ValueError(f"the phantom has no aperture {self.aperture!r}: choose one of {', '.join(APERTURES)}")

    def develop(self, plate: Bytes) -> Bytes:
        """Apply colour rendition and tone curve to a plate's BGR; returns (N, N, 3)."""
        colour = plate[..., :3]
        weights = np.array([0.114, 0.587, 0.299], np.float32) * (1.0 - self.saturation)
        mixer = np.eye(3, dtype=np.float32) * self.saturation + weights[None, :]
        if self.mixer is not None:
            mixer = np.array(self.mixer, np.float32).reshape(3, 3) @ mixer
        mixer *= np.array(self.tint, np.float32)[:, None]
        mixed = cv.transform(colour, mixer)
        curve = 255.0 * (np.arange(256) / 255.0) ** self.gamma
        out: Bytes = cv.LUT(mixed, curve.astype(np.uint8))
        return out

    def circle(self, width: int, height: int) -> tuple[float, float, float] | None:
        """Centre and radius of the aperture in pixels; None where the whole frame is lit."""
        if self.aperture == "none":
            return None
        return self.aperture_at[0] * width, self.aperture_at[1] * height, self.aperture_radius * min(width, height)


def random_look(rng: np.random.Generator) -> Look:
    """Draw a scope and camera of any common kind."""
    grey = bool(rng.random() < 0.40)  # noqa: PLR2004 # a little under half
    aperture = str(rng.choice(APERTURES, p=[0.58, 0.10, 0.10, 0.22]))
    warm = float(rng.normal(0, 0.10))
    return Look(
        grey=grey,
        aperture=aperture,
        aperture_radius=float(rng.uniform(0.36, 0.72)),
        aperture_at=(float(rng.normal(0.5, 0.05)), float(rng.normal(0.5, 0.05))),
        edge=float(rng.choice([0.008, 0.02, 0.05, 0.12])),
        upside_down=bool(rng.random() < 0.5),  # noqa: PLR2004 # a coin
        falloff=float(rng.uniform(0.1, 0.85)),
        light_at=(float(rng.normal(0, 0.25)), float(rng.normal(0, 0.25))),
        gain=float(np.clip(np.exp(rng.normal(-0.1 if grey else 0.1, 0.42 if grey else 0.28)), 0.2, 1.7)),
        gamma=float(rng.uniform(0.65, 1.1)),
        saturation=float(rng.uniform(0.55, 1.25)),
        tint=(1.0 - warm, 1.0 + float(rng.normal(0, 0.05)), 1.0 + 0.6 * warm),
        shine=float(rng.uniform(0.2, 1.5)),
        noise=float(rng.uniform(0.5, 9.0)) * (1.3 if grey else 1.0),
        soft=float(max(0.0, rng.normal(0.3, 0.9))),
        sharpen=float(max(0.0, rng.normal(-0.2, 0.8))),
        surround=int(rng.integers(0, 22)),
        tube=bool(rng.random() < 0.12),  # noqa: PLR2004 # one in eight
    )


def aperture_weight(look: Look, width: int, height: int) -> Array:
    """Opacity of the lit area, 0..1, shape (height, width)."""
    circle = look.circle(width, height)
    if circle is None:
        return np.ones((height, width), np.float32)
    x = (np.arange(width, dtype=np.float32)[None, :] - circle[0]) / circle[2]
    y = (np.arange(height, dtype=np.float32)[:, None] - circle[1]) / circle[2]
    if look.aperture == "square":
        far = np.maximum(np.abs(x), np.abs(y))
    elif look.aperture == "octagon":
        far = np.maximum(np.maximum(np.abs(x), np.abs(y)), (np.abs(x) + np.abs(y)) * np.float32(np.sqrt(0.5)))
    else:
        far = np.sqrt(x * x + y * y)
    return smoothstep(1.0, 1.0 - look.edge, far.astype(np.float32))


def light_field(look: Look, width: int, height: int) -> Array:
    """Brightness of the scope's light over the frame, shape (height, width), without the aperture."""
    circle = look.circle(width, height) or (0.5 * width, 0.5 * height, 0.55 * max(width, height))
    x = (np.arange(width, dtype=np.float32)[None, :] - circle[0]) / circle[2] - np.float32(look.light_at[0])
    y = (np.arange(height, dtype=np.float32)[:, None] - circle[1]) / circle[2] - np.float32(look.light_at[1])
    light = 1.0 / (1.0 + (x * x + y * y) * np.float32(look.falloff * 1.6))
    return np.asarray(light * light, np.float32)


class SensorNoise:
    """Noise tiles cut anew for each frame; the cut depends on the frame's number only."""

    def __init__(self, look: Look, width: int, height: int, rng: np.random.Generator) -> None:
        """Make tiles for frames of `width` by `height` pixels."""
        self._size = (height, width)
        shape = (height + 64, width + 64)
        planes = rng.standard_normal((*shape, 3)).astype(np.float32) * np.float32(look.noise)
        if look.noise > 4.0:  # noqa: PLR2004 # strong noise comes with the processor's own smearing
            planes = cv.GaussianBlur(planes, (0, 0), 0.7) * 1.9
        rows = rng.standard_normal((shape[0], 1, 1)).astype(np.float32) * np.float32(0.12 * look.noise)
        planes = planes + rows
        if look.grey:
            planes[:] = planes[..., :1]
        self._brighter = np.clip(np.round(planes), 0, 255).astype(np.uint8)
        self._darker = np.clip(np.round(-planes), 0, 255).astype(np.uint8)

    def add(self, image: Bytes, rng: np.random.Generator) -> None:
        """Add noise to `image` in place."""
        height, width = self._size
        y0, x0, y1, x1 = (int(k) for k in rng.integers(0, 65, 4))
        cv.add(image, self._brighter[y0 : y0 + height, x0 : x0 + width], image)
        cv.subtract(image, self._darker[y1 : y1 + height, x1 : x1 + width], image)


def defocus(image: Bytes, sigma: float) -> Bytes:
    """Blur by `sigma` pixels, on a smaller copy when that is much."""
    factor = max(1, int(sigma // 1.6))
    if factor == 1:
        return np.asarray(cv.GaussianBlur(image, (0, 0), sigma))
    height, width = image.shape[:2]
    small = cv.resize(image, (max(8, width // factor), max(8, height // factor)), interpolation=cv.INTER_AREA)
    small = cv.GaussianBlur(small, (0, 0), sigma / factor)
    return np.asarray(cv.resize(small, (width, height), interpolation=cv.INTER_LINEAR))


def motion_blur(image: Bytes, dx: float, dy: float) -> Bytes:
    """Smear along (dx, dy) pixels, on a half-size copy."""
    height, width = image.shape[:2]
    small = cv.resize(image, (width // 2, height // 2), interpolation=cv.INTER_AREA)
    reach = float(min(np.hypot(dx, dy) / 2.0, 16.0))
    size = 2 * int(np.ceil(reach / 2.0)) + 1
    kernel = np.zeros((size, size), np.float32)
    middle = size // 2
    angle = np.arctan2(dy, dx)
    ends = [
        (
            round((middle + sign * np.cos(angle) * reach / 2) * 16),
            round((middle + sign * np.sin(angle) * reach / 2) * 16),
        )
        for sign in (-1, 1)
    ]
    cv.line(kernel, ends[0], ends[1], (1.0,), 1, cv.LINE_8, 4)
    total = float(kernel.sum())
    if total <= 0:
        return image
    small = cv.filter2D(small, -1, kernel / total)
    return np.asarray(cv.resize(small, (width, height), interpolation=cv.INTER_LINEAR))


class Haze:
    """Fog on the lens: contrast goes, a milky veil of drifting density comes."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Make the drifting pattern."""
        self._pattern = value_noise(rng, (96, 160), 5, 3)

    def apply(self, image: Bytes, amount: float, t: float) -> Bytes:
        """Return `image` behind fog of `amount` (0..1) at `t` seconds."""
        height, width = image.shape[:2]
        soft = defocus(image, (1.5 + 9.0 * amount) * height / 480.0)
        keep, veiled = max(0.0, 1.0 - 1.25 * amount), min(0.62, 1.25 * amount) * (1 - 0.35 * amount)
        out: Bytes = cv.addWeighted(image, keep, soft, veiled, 0)
        row, col = int(16 + 12 * np.sin(t * 0.21)), int(30 + 25 * np.sin(t * 0.13 + 1))
        window = self._pattern[row : row + 60, col : col + 80]
        veil = np.clip(amount * (88 + 26 * window), 0, 255).astype(np.uint8)
        veil = cv.resize(veil, (width, height), interpolation=cv.INTER_LINEAR)
        cv.add(out, cv.merge([veil, veil, cv.add(veil, int(8 * amount))]), out)
        return out


def add_glare(image: Bytes, at: tuple[float, float], size: float, amount: float) -> Bytes:
    """Add an overexposed patch at `at` (pixels); returns its opacity as uint8 (H, W)."""
    height, width = image.shape[:2]
    x = (np.arange(0, width, 8, dtype=np.float32)[None, :] - at[0]) / size
    y = (np.arange(0, height, 8, dtype=np.float32)[:, None] - at[1]) / (0.7 * size)
    patch = np.exp(-((x * x + y * y) ** 0.8)) * np.float32(420.0 * amount)
    wide: Bytes = cv.resize(np.clip(patch, 0, 255).astype(np.uint8), (width, height), interpolation=cv.INTER_LINEAR)
    cv.add(image, cv.cvtColor(wide, cv.COLOR_GRAY2BGR), image)
    return wide


class Smoke:
    """Plumes of a laser's smoke: they hide what is behind them, unevenly, and stand in the light themselves."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Make the drifting pattern."""
        self._pattern = value_noise(rng, (120, 160), 4, 4)

    def apply(self, image: Bytes, amount: float, t: float, light: Bytes) -> tuple[Bytes, Bytes]:
        """Return `image` behind smoke of `amount` (0..1) at `t` seconds, and the smoke's opacity (H, W)."""
        height, width = image.shape[:2]
        row, col = int(20 + 19 * np.sin(t * 0.31)), int(30 + 29 * np.sin(t * 0.23 + 1))
        window = self._pattern[row : row + 80, col : col + 100]
        dense = np.clip(amount * 1.25 * (0.62 + 0.42 * window), 0, 0.97) * 255.0
        opacity = cv.resize(dense.astype(np.uint8), (width, height), interpolation=cv.INTER_CUBIC)
        weight = cv.cvtColor(opacity, cv.COLOR_GRAY2BGR)
        grey = np.full_like(image, (168, 162, 158))
        grey = cv.multiply(grey, light, scale=1 / 255.0)
        out = cv.multiply(image, cv.bitwise_not(weight), scale=1 / 255.0)
        return cv.add(out, cv.multiply(grey, weight, scale=1 / 255.0)), opacity


def add_drops(image: Bytes, amount: float, rng: np.random.Generator) -> Bytes:
    """Put drops of water on the lens, in place: each bends and blurs what is behind it; returns where they are."""
    height, width = image.shape[:2]
    there = np.zeros((height, width), np.uint8)
    soft = defocus(image, max(1.5, 0.02 * min(height, width)))
    for _ in range(max(1, round(9 * amount))):
        reach = float(min(height, width) * rng.uniform(0.03, 0.05 + 0.12 * amount))
        at = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        x0, y0 = max(0, int(at[0] - reach)), max(0, int(at[1] - reach))
        x1, y1 = min(width, int(at[0] + reach) + 1), min(height, int(at[1] + reach) + 1)
        if min(x1 - x0, y1 - y0) < 4:  # noqa: PLR2004 # pixels: nothing of it is inside
            continue
        x = (np.arange(x0, x1, dtype=np.float32)[None, :] - np.float32(at[0])) / np.float32(reach)
        y = (np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(at[1])) / np.float32(reach)
        far = x * x * np.float32(rng.uniform(0.8, 1.3)) + y * y
        # Seen through a drop the picture stands on its head.
        from_x = np.clip(at[0] - x * np.float32(1.6 * reach) + 0 * y, 0, width - 1).astype(np.float32)
        from_y = np.clip(at[1] - y * np.float32(1.6 * reach) + 0 * x, 0, height - 1).astype(np.float32)
        bent = cv.remap(soft, from_x, from_y, cv.INTER_LINEAR)
        rim = np.clip(1.0 + 0.25 * np.exp(-(((far - 0.85) / 0.12) ** 2)) * np.sign(-y - 0.2 * x), 0, 2)
        weight = smoothstep(1.0, 0.82, far.astype(np.float32))[..., None]
        part = image[y0:y1, x0:x1]
        mixed = part * (1 - weight) + np.clip(bent * rim[..., None], 0, 255) * weight
        image[y0:y1, x0:x1] = mixed.astype(np.uint8)
        there[y0:y1, x0:x1][weight[..., 0] > 0.5] = 255  # noqa: PLR2004 # half
    return there
