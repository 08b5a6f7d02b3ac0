"""Images made worse: fifteen corruptions at five severities, after ImageNet-C.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
They are done by albumentations 2.0.8 on the stored pixels (after decoding and resizing, before the model), so they
stand for what happens to a picture of the stored size. Lengths are the paper's for 224 pixels and follow the size.

Thirteen are the paper's own, and these of them differ, each because of what albumentations offers or what this is for:

- gaussian_noise, brightness, pixelate, jpeg, zoom_blur: the paper's parameters.
- shot_noise is Poisson noise in linear light, where a camera has it, in amounts of about the paper's.
- impulse_noise hits all three channels of a pixel at once.
- defocus_blur is a Gaussian with the variance of the paper's disk (whose radii are whole, too coarse for small images)
  and of half a pixel besides, without which small images would not change.
- motion_blur averages along a line without fading, as wide in standard deviation as the paper's and of an odd number of
  pixels: below about 60 pixels a side neighbouring severities have the same length.
- glass_blur shuffles more with every severity in small images too, where the paper's distances are all one pixel.
- contrast ends at 0.12 instead of 0.05, where a crack of 28 levels would be one level.
- fog is plasma that brightens and takes contrast; elastic is local waves without the paper's affine part.

Two are not there: snow and frost (albumentations' snow wraps around on bright images, and it has no frost), for which
`shadow`, uneven plasma shade, and `spatter`, mud of the paper's extra set, stand in; `saturate` and the other extras
are left out.

Every image has its own random numbers, from its digest, the corruption's name and the severity: neither the order, nor
the batch, nor how many others there are matters.
"""

import os
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay import digests
from assay.errors import ConfigError

SEVERITIES = (1, 2, 3, 4, 5)
PAPER_SIZE = 224
"""Height and width in pixels of the images that the paper's lengths are for."""

_NEAREST, _AREA, _REFLECT = 0, 3, 4  # OpenCV's numbers

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Corruption:
    """One kind: an albumentations transform, and its arguments at each severity."""

    transform: str
    levels: tuple[Any, Any, Any, Any, Any]
    arguments: Callable[[Any, float], Mapping[str, Any]]
    """From a level and the size over `PAPER_SIZE`."""


def _odd(length: float) -> int:
    return max(3, 2 * round((length - 1) / 2) + 1)


def _mud(deviations: float, scale: float) -> Mapping[str, Any]:
    """Mud where smoothed noise is so many standard deviations above its mean: the same share at every size."""
    sigma = max(5.25 * scale, 0.7)
    # Of white noise with deviation 0.3, smoothing leaves 0.3 / (2 sqrt(pi) sigma).
    threshold = min(0.65 + deviations * 0.3 / (2 * np.pi**0.5 * sigma), 1.0)
    fixed = {"mean": (0.65, 0.65), "std": (0.3, 0.3), "intensity": (1.0, 1.0), "color": (63, 42, 20), "mode": "mud"}
    return {**fixed, "gauss_sigma": (sigma, sigma), "cutout_threshold": (threshold, threshold)}


def _waves(level: float, scale: float) -> Mapping[str, Any]:
    """Displacements that are the same share of every size."""
    sigma = max(6 * scale, 1.0)
    return {"alpha": level * scale * sigma / 6, "sigma": sigma, "border_mode": _REFLECT}


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(
        "GaussNoise", (0.08, 0.12, 0.18, 0.26, 0.38), lambda deviation, _: {"std_range": (deviation, deviation)}
    ),
    "shot_noise": Corruption(
        "ShotNoise", (0.02, 0.05, 0.09, 0.14, 0.2), lambda scale, _: {"scale_range": (scale, scale)}
    ),
    "impulse_noise": Corruption(
        "SaltAndPepper",
        (0.03, 0.06, 0.09, 0.17, 0.27),
        lambda share, _: {"amount": (share, share), "salt_vs_pepper": (0.5, 0.5)},
    ),
    "defocus_blur": Corruption(
        "GaussianBlur", (3, 4, 6, 8, 10), lambda radius, scale: {"sigma_limit": (hypot(0.5, radius * scale / 2),) * 2}
    ),
    "glass_blur": Corruption(
        "GlassBlur",
        ((0.7, 1.5, 1), (0.9, 2, 2), (1.0, 2, 3), (1.1, 3, 3), (1.5, 4, 4)),
        lambda level, scale: {
            "sigma": level[0] * scale,
            "max_delta": max(1, round(level[1] * scale)),
            "iterations": level[2],
        },
    ),
    "motion_blur": Corruption(
        "MotionBlur",
        (10, 17, 23, 27, 34),
        lambda length, scale: {
            "blur_limit": (_odd(length * scale),) * 2,
            "direction_range": (0, 0),
            "allow_shifted": False,
        },
    ),
    "zoom_blur": Corruption(
        "ZoomBlur",
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        lambda level, _: {"max_factor": (level[0], level[0]), "step_factor": (level[1], level[1])},
    ),
    "shadow": Corruption(
        "PlasmaShadow",
        (0.3, 0.45, 0.6, 0.7, 0.8),
        lambda depth, _: {"shadow_intensity_range": (depth, depth), "roughness": 0.4},
    ),
    "spatter": Corruption("Spatter", (2.0, 1.6, 1.25, 0.95, 0.65), _mud),
    "fog": Corruption(
        "PlasmaBrightnessContrast",
        ((0.15, 0.5), (0.25, 0.6), (0.35, 0.7), (0.45, 0.8), (0.55, 0.9)),
        lambda level, _: {
            "brightness_range": (level[0], level[0]),
            "contrast_range": (-level[1], -level[1]),
            "roughness": 0.4,
        },
    ),
    "brightness": Corruption(
        "RandomBrightnessContrast",
        (0.1, 0.2, 0.3, 0.4, 0.5),
        lambda more, _: {"brightness_limit": (more, more), "contrast_limit": (0, 0)},
    ),
    "contrast": Corruption(
        "RandomBrightnessContrast",
        (0.6, 0.45, 0.3, 0.2, 0.12),
        # Of the mean as much is given back as was taken, so that the image stays as bright as it was.
        lambda kept, _: {
            "contrast_limit": (kept - 1, kept - 1),
            "brightness_limit": (1 - kept, 1 - kept),
            "brightness_by_max": False,
        },
    ),
    "elastic": Corruption("ElasticTransform", (150, 225, 300, 375, 450), _waves),
    "pixelate": Corruption(
        "Downscale",
        (0.6, 0.5, 0.4, 0.3, 0.25),
        lambda share, _: {
            "scale_range": (share, share),
            "interpolation_pair": {"downscale": _AREA, "upscale": _NEAREST},
        },
    ),
    "jpeg": Corruption(
        "ImageCompression", (25, 18, 15, 10, 7), lambda quality, _: {"quality_range": (quality, quality)}
    ),
}


def corrupt(pixels: Pixels, sha256: Sequence[str], name: str, severity: int) -> Pixels:
    """Images made worse.

    Args:
        pixels: uint8 [n, s, s, 3] RGB.
        sha256: digest of each image, n.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.

    Raises:
        ConfigError: there is no such corruption.
    """
    check((name,))
    size = pixels.shape[1]
    kind = CORRUPTIONS[name]
    arguments = kind.arguments(kind.levels[severity - 1], size / PAPER_SIZE)
    transform = getattr(_albumentations(), kind.transform)(**arguments, p=1.0)
    worse = np.empty_like(pixels)
    for place, (image, digest) in enumerate(zip(pixels, sha256, strict=True)):
        seed = int(digests.of_bytes(f"{digest} {name} {severity}".encode())[:16], 16)
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        worse[place] = transform(image=image)["image"]
    return worse


def check(names: Collection[str]) -> None:
    """Refuse names that are not in `CORRUPTIONS` (ConfigError)."""
    for name in names:
        if name not in CORRUPTIONS:
            known = ", ".join(CORRUPTIONS)
            raise ConfigError(f"challenges.corruptions: no corruption is called {name!r}; known: {known}")


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the package registry for news otherwise
    import albumentations

    return albumentations
