"""Procedural photographs of concrete surfaces, with and without cracks.

A picture depends on its index and the seed alone, never on which others are drawn or in what order. The surface is
made the same way for both labels: mottled concrete with aggregate, pits, stains and trowel marks, and the straight or
smoothly curved dark lines that are no cracks (joints, scratches, seams, shadows). A crack is a random walk whose
heading is an Ornstein-Uhlenbeck process, with branches and a varying width. Everything multiplies the light that comes
back from the surface, so that a crack can be taken away without changing anything else in its picture.
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import atan2, cos, exp, hypot, log, pi, sin, tau
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from assay.errors import DataError

VERSION = "1"
"""Changes whenever the same seed and index give another picture."""

LABELS = ("crack", "intact")
MIN_SIZE, MAX_SIZE = 48, 1024
MAX_SEED = 2**32 - 1
"""Of seed and index: more would take a SeedSequence two words, and other pairs could give the same words."""

MIN_AREA = 0.009
"""Least share of the picture that a crack covers."""
MIN_EXTENT = 0.55
"""Least diagonal of the box around a crack, in sides of the picture."""
MIN_CONTRAST = 28.0
"""Least difference between a crack and its surroundings, in levels of luminance (0 to 255)."""
MIN_CONTRAST_TO_NOISE = 1.5
"""Least ratio of that difference to the standard deviation of the surroundings."""

_UNIT = 160
"""Lengths below are in 160ths of the picture's side."""
_OVERSAMPLING = 3
# Entropy of the streams of random numbers. Never 0: trailing zeros do not change a SeedSequence.
_STREAMS = {"crack": 1, "intact": 2, "label": 3}

Plane = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn picture: `pixels` uint8 [s, s, 3] RGB before JPEG; `crack` float32 [s, s], how deep in a crack each
    pixel is (0 outside, 1 in its heart; all 0 in an intact picture); `quality` of the JPEG."""

    label: str
    pixels: Pixels
    crack: Plane
    quality: int


@dataclass(frozen=True, slots=True)
class Visibility:
    """How well a crack is seen: its area (share of the picture), its extent (diagonal of its box, in sides), and its
    contrast and the noise around it (levels of luminance)."""

    area: float
    extent: float
    contrast: float
    noise: float

    @property
    def enough(self) -> bool:
        """Whether a person sees the crack; a positive that shows none would be label noise."""
        contrast = max(MIN_CONTRAST, MIN_CONTRAST_TO_NOISE * self.noise)
        return self.area >= MIN_AREA and self.extent >= MIN_EXTENT and self.contrast >= contrast


def label_of(index: int, seed: int) -> str:
    """The label of a picture: a fair coin thrown for this seed and index."""
    return LABELS[int(_stream(index, seed, "label").integers(2))]


def render(index: int, seed: int, size: int = 160, hard_negatives: bool = True) -> tuple[bytes, str]:
    """One picture as JPEG bytes, and its label.

    The bytes are the same in every process; other versions of numpy, Pillow or libjpeg may round a pixel otherwise.

    Args:
        index: number of the picture, 0 to 2**32 - 1.
        seed: of the whole set, 0 to 2**32 - 1.
        size: height and width in pixels, 48 to 1024.
        hard_negatives: whether pictures of both labels also show pits, stains, trowel marks, joints, scratches, seams
            and shadows.

    Raises:
        DataError: index, seed or size is out of its range.
    """
    picture = draw(index, seed, size, hard_negatives)
    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, "JPEG", quality=picture.quality)
    return buffer.getvalue(), picture.label


def draw(index: int, seed: int, size: int = 160, hard_negatives: bool = True) -> Picture:
    """What `render` encodes, with the crack's mask. A crack that would not be seen is drawn again, each time bolder."""
    _check("size", size, MIN_SIZE, MAX_SIZE)
    label = label_of(index, seed)
    rng = _stream(index, seed, label)
    quality = int(rng.integers(82, 96))
    light = _concrete(rng, size)
    if hard_negatives:
        light *= _marks(rng, size, more=label == "intact")
    finish = _Finish.draw(rng, size, hard_negatives)
    if label == "intact":
        return Picture(label, finish(light), np.zeros((size, size), np.float32), quality)
    pixels, crack = _cracked(rng, light, finish)
    return Picture(label, pixels, crack, quality)


def visibility(pixels: Pixels, crack: Plane) -> Visibility:
    """Measure a crack in the picture itself.

    Args:
        pixels: uint8 [s, s, 3] RGB.
        crack: float [s, s], how deep in the crack each pixel is, 0 to 1.
    """
    size = crack.shape[0]
    core = crack > 0.4
    if not core.any():
        return Visibility(0.0, 0.0, 0.0, 0.0)
    nearby = Image.fromarray((core * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(5 * size / _UNIT))
    ring = (np.asarray(nearby) > 0) & (crack == 0)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    around = grey[ring] if ring.any() else grey[~core]
    rows, columns = np.nonzero(core)
    return Visibility(
        area=float(core.mean()),
        extent=hypot(np.ptp(rows), np.ptp(columns)) / size,
        contrast=float(around.mean() - grey[core].mean()),
        noise=float(around.std()),
    )


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise DataError(f"synthetic surface: {name} is {value}; give one from {low} to {high}")


def _stream(index: int, seed: int, name: str) -> np.random.Generator:
    _check("index", index, 0, MAX_SEED)
    _check("seed", seed, 0, MAX_SEED)
    return np.random.default_rng(np.random.SeedSequence([seed, index, _STREAMS[name]]))


# Geometry ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Plane, Plane]:
    """x [1, s] and y [s, 1] of every pixel, float32, in units from the centre; read-only."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * _UNIT
    axis.flags.writeable = False
    return axis[None, :], axis[:, None]


def _line(rng: np.random.Generator, size: int, spread: float = 55, bow: float = 0.0) -> Plane:
    """Signed distance in units to a random line, straight or bent like a bow of up to `bow` units at the border."""
    x, y = _grid(size)
    angle = rng.normal(rng.choice([0, pi / 2]), 0.12) if rng.random() < 0.6 else rng.uniform(0, pi)
    across = x * cos(angle) + y * sin(angle) - rng.uniform(-spread, spread)
    if bow:
        along = y * cos(angle) - x * sin(angle)
        across += rng.uniform(-bow, bow) / 80**2 * along**2
    return across


def _edge(distance: Plane, softness: float) -> Plane:
    """0 where the distance is well below 0, 1 where it is well above, and a smooth ramp between."""
    ramp = _clip(distance / (2 * softness) + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _clip(plane: Plane, low: float, high: float) -> Plane:
    clipped: Plane = np.clip(plane, low, high)
    return clipped


def _resized(grid: Plane, size: int, box: tuple[float, float, float, float] | None = None) -> Plane:
    picture = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.array(picture, np.float32)


def _white(rng: np.random.Generator, rows: int, columns: int) -> Plane:
    """Uniform noise of standard deviation 1, float32; a third of the time of normal noise, and it looks the same."""
    return (rng.random((rows, columns), dtype=np.float32) - 0.5) * 12**0.5


def _noise(rng: np.random.Generator, size: int, coarse: int, octaves: int, persistence: float) -> Plane:
    """Fractal noise [s, s] of mean 0 and standard deviation 1: a sum of random grids, each twice as fine as the last.

    The coarsest grid has `coarse` cells; a random window of the finest is kept, so that lattices do not line up.
    """
    total = _white(rng, coarse, coarse)
    for octave in range(1, octaves):
        total = _resized(total, coarse * 2**octave)
        total += persistence**octave * _white(rng, *total.shape)
    cells = total.shape[0]
    width = cells * rng.uniform(0.65, 1.0)
    left, top = rng.uniform(0, cells - width, 2)
    plane: Plane = _resized(total, size, (left, top, left + width, top + width))
    plane -= plane.mean()
    plane /= plane.std()
    return plane


class _Canvas:
    """A drawing in units, made larger than the picture and averaged down."""

    def __init__(self, size: int) -> None:
        self.scale = size * _OVERSAMPLING / _UNIT
        self.image = Image.new("L", (size * _OVERSAMPLING, size * _OVERSAMPLING))
        self.brush = ImageDraw.Draw(self.image)

    def ribbon(self, points: Points, left: Points, right: Points, value: float = 1.0) -> None:
        """Fill a strip along `points` [n, 2], which reaches `left` [n] units to one side and `right` to the other."""
        tangent = np.gradient(points, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
        centre = points + _UNIT / 2
        one = (centre + normal * left[:, None]) * self.scale
        other = (centre - normal * right[:, None]) * self.scale
        quads = np.concatenate([one[:-1], one[1:], other[1:], other[:-1]], axis=1)
        for quad in quads.tolist():
            self.brush.polygon(quad, fill=round(255 * value))

    def blob(self, outline: Points, value: float = 1.0) -> None:
        """Fill the polygon with the corners `outline` [n, 2]."""
        corners = ((outline + _UNIT / 2) * self.scale).ravel().tolist()
        self.brush.polygon(corners, fill=round(255 * value))

    def plane(self) -> Plane:
        """float32 [s, s]: the mean of what was filled in, 0 to 1, over each pixel."""
        covered: Plane = np.asarray(self.image.reduce(_OVERSAMPLING), np.float32) / 255
        return covered


# The surface ---------------------------------------------------------------------------------------------------------


def _concrete(rng: np.random.Generator, size: int) -> Plane:
    """Luminance of bare concrete: mottling, grain, and grains of aggregate that show through."""
    level = rng.uniform(110, 200)
    mottling = _noise(rng, size, 4, 5, rng.uniform(0.45, 0.8)) * rng.uniform(0.02, 0.06)
    grain = _noise(rng, size, max(4, size // 4), 3, rng.uniform(0.9, 1.5)) * rng.uniform(0.015, 0.045)
    plane = 1 + mottling + grain
    if rng.random() < 0.45:
        plane += _aggregate(rng, size)
    return plane * level


def _aggregate(rng: np.random.Generator, size: int) -> Plane:
    cells = int(rng.integers(24, 64))
    stones = _noise(rng, size, cells, 1, 1.0)
    dark, pale, threshold = rng.uniform(0, 0.12), rng.uniform(0, 0.12), rng.uniform(1.2, 1.8)
    return pale * _edge(stones - threshold, 0.3) - dark * _edge(-stones - threshold, 0.3)


def _marks(rng: np.random.Generator, size: int, more: bool) -> Plane:
    """Factor of the light for what is on the surface and is no crack. `more` of its lines stand in for a crack's."""
    factor = np.ones((size, size), np.float32)
    for make, chance in ((_trowel, 0.3), (_blotches, 0.3), (_pits, 0.35), (_drips, 0.12)):
        if rng.random() < chance:
            factor *= make(rng, size)
    lines = (_joint, _scratches, _seam, _bar_shadow, _ridges)
    chances = (0.34, 0.26, 0.1, 0.24, 0.06)
    count = int(rng.choice(4, p=[0.1, 0.6, 0.26, 0.04] if more else [0.65, 0.3, 0.05, 0.0]))
    for which in rng.choice(len(lines), count, p=chances, replace=False):
        factor *= lines[which](rng, size)
    return factor


def _trowel(rng: np.random.Generator, size: int) -> Plane:
    """Fine grain along wide arcs, as a trowel leaves it."""
    x, y = _grid(size)
    angle, radius = rng.uniform(0, tau), rng.uniform(120, 600)
    distance = np.hypot(x - radius * cos(angle), y - radius * sin(angle))
    profile = np.convolve(rng.standard_normal(260), rng.dirichlet(np.full(5, 2.0)), "same").astype(np.float32)
    position = distance - distance.min()
    cell = np.minimum(position.astype(np.int32), 258)
    between = position - cell
    streaks: Plane = profile[cell] * (1 - between) + profile[cell + 1] * between
    patchy = _clip(_noise(rng, size, 3, 2, 0.5) * 0.5 + 0.6, 0, 1)
    return 1 + rng.uniform(0.02, 0.06) * streaks * patchy


def _blotches(rng: np.random.Generator, size: int) -> Plane:
    """Patches that are damp or pale, with soft outlines."""
    field = _noise(rng, size, 3, 5, 0.5)
    depth = rng.uniform(-0.22, -0.06) if rng.random() < 0.7 else rng.uniform(0.05, 0.15)
    return 1 + depth * _edge(field - rng.uniform(0.4, 1.4), rng.uniform(0.15, 0.6))


def _drips(rng: np.random.Generator, size: int) -> Plane:
    """Streaks that water left, running down the picture."""
    columns = _resized(_white(rng, 3, 24), size)
    return 1 - rng.uniform(0.05, 0.14) * _edge(columns - rng.uniform(0.3, 1.0), 0.5)


def _pits(rng: np.random.Generator, size: int) -> Plane:
    """Air holes: irregular, dark on the side of the light, with the opposite edge shining."""
    canvas = _Canvas(size)
    towards = rng.uniform(0, tau)
    light = np.array([cos(towards), sin(towards)])
    for _ in range(int(rng.integers(2, 13))):
        radius = min(0.8 * (1 - rng.random()) ** -0.55, 4.5)
        outline = _round(rng, radius)
        centre = rng.uniform(-80, 80, 2)
        canvas.blob(centre + outline)
        canvas.blob(centre + 0.25 * radius * light + 0.72 * outline, value=rng.uniform(0.5, 0.9))
    holes = canvas.plane()
    return 1 - rng.uniform(0.35, 0.8) * holes + 0.12 * _lit_side(light, holes)


def _round(rng: np.random.Generator, radius: float) -> Points:
    """Outline [14, 2] of a dented ellipse around the origin."""
    angles = np.linspace(0, tau, 14, endpoint=False) + rng.uniform(0, tau)
    reach = radius * np.exp(rng.normal(0, 0.06, 14))
    return np.stack([reach * np.cos(angles), rng.uniform(0.6, 1) * reach * np.sin(angles)], axis=1)


def _lit_side(light: Points, mask: Plane) -> Plane:
    """The pixels beside a mask, on its side in the direction `light` [x, y]."""
    reach = max(1.0, mask.shape[0] / _UNIT)
    right, down = (round(float(part) * reach) for part in light)
    padded = np.pad(mask, ((abs(down),), (abs(right),)), mode="edge")
    shifted = np.roll(padded, (down, right), (0, 1))[abs(down) :, abs(right) :][: mask.shape[0], : mask.shape[1]]
    return _clip(shifted - mask, 0, 1)


def _joint(rng: np.random.Generator, size: int) -> Plane:
    """The groove that the formwork leaves: straight, of one width, with a lit edge."""
    uneven = _noise(rng, size, 8, 4, 0.7)
    across = _line(rng, size) + 0.15 * uneven
    half, depth = rng.uniform(0.8, 2.8), rng.uniform(0.4, 0.8)
    groove = _edge(half - np.abs(across), 0.6)
    lit = _edge(half - np.abs(across - 2 * half), 0.7)
    return _clip(1 - depth * groove * (1 + 0.12 * uneven) + rng.uniform(0, 0.14) * lit, 0.08, 1.2)


def _seam(rng: np.random.Generator, size: int) -> Plane:
    """Two boards that were not level: one side darker, with a thin line of shadow at the step."""
    across = _line(rng, size, bow=2)
    step = _edge(across, rng.uniform(0.5, 1.5))
    shade: Plane = np.exp(-np.abs(across - 1.0) / rng.uniform(0.6, 2.5))
    return 1 - rng.uniform(0.03, 0.16) * step - rng.uniform(0.2, 0.6) * shade * step


def _ridges(rng: np.random.Generator, size: int) -> Plane:
    """Edges of trowel strokes: smooth arcs, dark on one side and pale on the other."""
    factor = np.ones((size, size), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        across = _line(rng, size, bow=25)
        ridge = across * np.exp(-np.square(across / rng.uniform(1.2, 3)))
        factor += rng.uniform(0.05, 0.16) * ridge
    return _clip(factor, 0.5, 1.3)


def _bar_shadow(rng: np.random.Generator, size: int) -> Plane:
    """The shadow of a rod or wire: a straight dark band with soft sides."""
    across = _line(rng, size, bow=4)
    half, softness = rng.uniform(0.8, 9), rng.uniform(0.8, 3)
    return 1 - rng.uniform(0.3, 0.7) * _edge(half - np.abs(across), softness)


def _scratches(rng: np.random.Generator, size: int) -> Plane:
    """Thin lines, straight or smoothly bent, of one width, dark or pale, alone or a few side by side."""
    canvas = _Canvas(size)
    start = rng.uniform(-75, 75, 2)
    heading, length = rng.uniform(0, tau), rng.uniform(60, 220)
    along = np.linspace(0, 1, 40)[:, None]
    direction = np.array([cos(heading), sin(heading)])
    bend = np.array([-sin(heading), cos(heading)]) * rng.uniform(-0.18, 0.18) * length
    for _ in range(int(rng.choice([1, 2, 3], p=[0.8, 0.15, 0.05]))):
        path = start + length * (along - 0.5) * direction + 4 * along * (1 - along) * bend
        half = np.full(40, rng.uniform(0.4, 0.8))
        canvas.ribbon(path, half, half)
        start = start + rng.normal(0, 7, 2)
    line = canvas.plane()
    depth = rng.uniform(-0.65, -0.3) if rng.random() < 0.7 else rng.uniform(0.12, 0.4)
    return 1 + depth * line


# Cracks --------------------------------------------------------------------------------------------------------------


def _cracked(rng: np.random.Generator, light: Plane, finish: "_Finish") -> tuple[Pixels, Plane]:
    """The finished picture with a crack that is seen, and the crack's mask."""
    for boldness in itertools.count():
        crack = _crack(rng, light.shape[0], 1.15**boldness)
        pixels = finish(light * _crack_shade(rng, crack, boldness))
        if visibility(pixels, crack).enough:
            break
    return pixels, crack


def _crack_shade(rng: np.random.Generator, crack: Plane, boldness: int) -> Plane:
    """Factor of the light for a crack: dark within, and one of its edges shining."""
    depth = 1 - rng.uniform(0.2, 0.55) * 0.8**boldness
    uneven = _clip(1 + 0.12 * _noise(rng, crack.shape[0], 5, 3, 0.7), 0.6, 1.15)
    towards = rng.uniform(0, tau)
    lit = _lit_side(np.array([cos(towards), sin(towards)]), crack)
    return _clip(1 - depth * crack * uneven, 0.06, 1) + rng.uniform(0, 0.14) * lit


def _crack(rng: np.random.Generator, size: int, boldness: float) -> Plane:
    """float32 [s, s]: 0 outside, 1 in the heart of the crack, less towards its edges."""
    canvas = _Canvas(size)
    width = min(boldness, 3.0) * exp(rng.uniform(log(1.8), log(6.0)))
    strips = [(path, _ragged(rng, widths)) for path, widths in _network(rng, width)]
    for share, value in ((1.0, 0.7), (0.6, 1.0)):
        for path, (left, right) in strips:
            canvas.ribbon(path, share * left, share * right, value)
    return canvas.plane()


def _ragged(rng: np.random.Generator, widths: Points) -> tuple[Points, Points]:
    """Half widths [n] of the two sides, which do not break alike."""
    left, right = (np.exp(0.2 * _wander(rng, len(widths), memory=1.2)) for _ in range(2))
    return 0.5 * widths * left, 0.5 * widths * right


def _network(rng: np.random.Generator, width: float) -> Iterator[tuple[Points, Points]]:
    """A crack and up to four branches, each as its points [n, 2] and widths [n] in units."""
    side = rng.uniform(0, tau)
    start = np.clip(115 * np.array([cos(side), sin(side)]), -82, 82)
    right, down = rng.uniform(-40, 40, 2) - start
    heading = atan2(down, right)
    path = _walk(rng, start, heading, rng.uniform(130, 260))
    widths = _widths(rng, len(path), width, taper=rng.uniform(0.3, 1.0))
    yield path, widths
    for _ in range(int(rng.choice(5, p=[0.35, 0.33, 0.18, 0.1, 0.04]))):
        at = int(rng.integers(len(path) // 8, len(path) * 3 // 4))
        towards = heading + rng.choice([-1, 1]) * rng.uniform(0.45, 1.2)
        branch = _walk(rng, path[at], towards, rng.uniform(25, 130))
        yield branch, _widths(rng, len(branch), widths[at] * rng.uniform(0.45, 0.85), taper=0.35)


def _walk(rng: np.random.Generator, start: Points, heading: float, length: float) -> Points:
    """Points [n, 2], 2 units apart, whose heading is an Ornstein-Uhlenbeck process with a jitter of its own."""
    count = int(length / 2)
    drift = _wander(rng, count, memory=rng.uniform(4, 14)) * rng.uniform(0.3, 0.65)
    angles = heading + drift + rng.normal(0, rng.uniform(0.2, 0.5), count)
    steps = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _wander(rng: np.random.Generator, count: int, memory: float) -> Points:
    """A stationary Ornstein-Uhlenbeck process of standard deviation 1 at `count` steps; `memory` in steps."""
    keep = exp(-1 / memory)
    kicks = rng.standard_normal(count)
    kicks[1:] *= np.sqrt(1 - keep**2)
    return np.fromiter(itertools.accumulate(kicks, lambda value, kick: keep * value + kick), np.float64, count)


def _widths(rng: np.random.Generator, count: int, width: float, taper: float) -> Points:
    uneven = np.exp(rng.uniform(0.15, 0.4) * _wander(rng, count, memory=8))
    return np.maximum(width * uneven * np.linspace(1, taper, count), 0.7)


# Light and camera ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Finish:
    """Light on the surface and the camera: what turns luminance into a photograph."""

    light: Plane
    tint: NDArray[np.float32]
    sensor: NDArray[np.float32]
    blur: float

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int, shadows: bool) -> "_Finish":
        x, y = _grid(size)
        angle, slope = rng.uniform(0, tau), rng.uniform(0, 0.12) / 80
        light = 1 + slope * (cos(angle) * x + sin(angle) * y)
        light -= rng.uniform(0, 0.05) / 80**2 * (x * x + y * y)
        if shadows and rng.random() < 0.15:
            light *= 1 - rng.uniform(0.15, 0.45) * _edge(_line(rng, size, bow=6), rng.uniform(0.8, 6))
        warmth = rng.normal(0.012, 0.018)
        tint = np.array([1 + warmth, 1 + rng.normal(0, 0.006), 1 - warmth], np.float32)
        sensor = _white(rng, size, size) * rng.uniform(0.8, 3)
        return cls(light, tint, sensor, rng.uniform(0, 0.6))

    def __call__(self, luminance: Plane) -> Pixels:
        """uint8 [s, s, 3]: the picture of a surface of this luminance, float [s, s] in levels."""
        grey = np.clip(luminance * self.light, 0, 255).astype(np.uint8)
        focused = Image.fromarray(grey).filter(ImageFilter.GaussianBlur(self.blur))
        exposed = np.asarray(focused, np.float32) + self.sensor
        return _clip(exposed[..., None] * self.tint + 0.5, 0, 255).astype(np.uint8)
