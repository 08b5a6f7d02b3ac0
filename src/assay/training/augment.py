"""The albumentations pipeline of a recipe: built and tried out before anything is trained.

Augmentation works on uint8 pixels, one image at a time. Normalisation is no part of it: that is done on whole batches.
"""

import inspect
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from assay.config import Augmentation
from assay.errors import ConfigError


class Augmenter:
    """Changes images as the recipe says; what it does to a batch depends on the batch and the seed alone.

    Args:
        augment: the recipe's transforms, in their order.
        size: height and width in pixels of the images.

    Raises:
        ConfigError: no such transform, arguments that it does not take, or pixels of another shape or type after it.
    """

    def __init__(self, augment: Sequence[Augmentation], size: int) -> None:
        self._pipeline = _compose(augment) if augment else None
        if augment:
            _try_out(_compose(augment), size)

    def __call__(self, pixels: np.ndarray, seed: Sequence[int]) -> None:
        """Augment `pixels`, uint8 [n, s, s, 3], in place."""
        if self._pipeline is None:
            return
        # Shared by all transforms. `set_random_seed` would give each its own generator from the same seed: flips in
        # two directions would then always happen together.
        numpy_random = np.random.default_rng(seed)
        python_random = random.Random(int(numpy_random.integers(2**63)))  # noqa: S311
        self._pipeline.set_random_state(numpy_random, python_random)
        for image in pixels:
            image[...] = self._pipeline(image=image)["image"]


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the package registry for news otherwise
    import albumentations

    return albumentations


def _compose(augment: Sequence[Augmentation]) -> Any:
    return _albumentations().Compose([_transform(item) for item in augment])


def _transform(item: Augmentation) -> Any:
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ConfigError(
            "recipe.augment: each entry is one transform and its arguments, as in {HorizontalFlip: {p: 0.5}}; "
            f"one has {', '.join(item) or 'nothing'}"
        )
    ((name, arguments),) = item.items()
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"recipe.augment: {name}: its arguments are a mapping, {{}} if there are none")
    kind = _kind(name)
    known = [key for key in inspect.signature(kind.__init__).parameters if key not in ("self", "args", "kwargs")]
    for key in arguments:
        if key not in known:
            raise ConfigError(f"recipe.augment: {name} takes no {key!r}; {_nearest(key, known)}")
    try:
        return kind(**{key: _argument(key, value) for key, value in arguments.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"recipe.augment: {name}: {_sentence(error)}") from None


def _argument(key: str, value: Any) -> Any:
    """Combinations such as OneOf have transforms as an argument, written the same way."""
    return [_transform(item) for item in value] if key == "transforms" else value


def _kind(name: str) -> Any:
    kinds = _kinds()
    if name not in kinds:
        raise ConfigError(f"recipe.augment: albumentations has no {name!r}; {_nearest(name, list(kinds))}")
    return kinds[name]


def _kinds() -> Mapping[str, Any]:
    """albumentations' transforms and combinations of them, by name."""
    library = _albumentations()
    bases = (library.BasicTransform, library.BaseCompose)
    return {name: kind for name, kind in vars(library).items() if isinstance(kind, type) and issubclass(kind, bases)}


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _try_out(pipeline: Any, size: int) -> None:
    """Run every transform once, whatever its probability."""
    for transform in _all(pipeline):
        transform.p = 1.0
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    pipeline.set_random_state(np.random.default_rng(0), random.Random(0))  # noqa: S311
    try:
        image = pipeline(image=noise)["image"]
    except Exception as error:  # whatever a transform raises on arguments that do not fit each other
        raise ConfigError(f"recipe.augment: does not work on {size} px images: {_sentence(error)}") from None
    if image.shape != noise.shape or image.dtype != noise.dtype:
        raise ConfigError(
            f"recipe.augment: makes {image.dtype} {list(image.shape)} of uint8 {list(noise.shape)}; "
            "size and type must stay (normalisation is done afterwards, and needs no transform)"
        )


def _all(pipeline: Any) -> Iterator[Any]:
    for transform in getattr(pipeline, "transforms", ()):
        yield transform
        yield from _all(transform)


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "further information" not in line]
    return " ".join(lines) or type(error).__name__
