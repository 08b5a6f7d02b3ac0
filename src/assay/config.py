"""The use case: one YAML file in `configs/`, typed. Everything that one use case has for itself stands there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from assay.errors import ConfigError

NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises of text that is no YAML, not UTF-8, or holds no such number or date."""

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values never change, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Settings):
    """Where the images are, and the geometry in which they are stored, trained on and served."""

    source: str
    """URI: a folder of class folders, a zip or tar of that, a CSV or Parquet list, `s3://…` or `synthetic://…`."""
    image_size: int = Field(224, ge=16, le=2048)
    """Height and width in pixels of every image after preprocessing."""
    fit: Literal["squash", "crop", "pad"] = "squash"
    """How an image that is not square becomes one: stretched, centre-cropped, or padded with black."""
    max_pixels: int = Field(100_000_000, gt=0)
    """An image whose header announces more is quarantined before it is decoded."""


class Bounds(Settings):
    """Expectations on a manifest; one that is not given is not checked."""

    labels: tuple[str, ...] | None = None
    """Every label is one of these, and each of these occurs."""
    min_classes: int | None = Field(None, ge=1)
    max_classes: int | None = Field(None, ge=1)
    min_per_class: int | None = Field(None, ge=1)
    """Usable images of the smallest class."""
    max_imbalance: float | None = Field(None, ge=1)
    """Images of the largest class over those of the smallest."""
    max_quarantined: Share | None = None
    """Share of rows that are quarantined."""
    max_label_conflicts: int | None = Field(None, ge=0)
    """Pictures (by content) that stand under two labels or more."""
    max_duplicates: Share | None = None
    """Share of usable rows whose content another row has too."""
    min_size: int | None = Field(None, ge=1)
    """Shorter side of the original, in pixels."""
    max_size: int | None = Field(None, ge=1)
    """Longer side of the original, in pixels."""
    max_aspect_ratio: float | None = Field(None, ge=1)
    modes: tuple[str, ...] | None = None
    """Pillow modes of the originals, such as RGB, L, CMYK."""
    formats: tuple[str, ...] | None = None
    """Formats by content, as Pillow names them: JPEG, PNG, …"""
    brightness: tuple[Share, Share] | None = None
    """Lowest and highest mean luminance of an image, 0 black to 1 white."""
    min_contrast: Share | None = None
    """Lowest standard deviation of an image's luminance, in the same unit."""


class Expectations(Settings):
    """What the data must be (else the run stops), and what it should be (else the run warns)."""

    stop: Bounds = Bounds(
        min_classes=2, max_classes=1000, min_per_class=10, max_quarantined=0.01, max_label_conflicts=0
    )
    warn: Bounds = Bounds(max_imbalance=10.0, max_duplicates=0.05, max_aspect_ratio=3.0, min_contrast=0.01)


class SplitConfig(Settings):
    """Shares of the three splits; the hash of a sample's group decides which of them it is in."""

    train: Share = 0.70
    validation: Share = 0.15
    test: Share = 0.15
    seed: int = 42
    near_duplicates: bool = True
    """Whether images that are nearly the same picture are kept in one group, and so in one split."""

    @model_validator(mode="after")
    def _sum_to_one(self) -> "SplitConfig":
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must sum to 1")
        if min(self.train, self.validation, self.test) <= 0:
            raise ValueError("each of train, validation and test must be more than 0")
        return self


Augmentation = Mapping[str, Mapping[str, Any]]
"""One albumentations transform: its class name and its arguments, as in `{HorizontalFlip: {p: 0.5}}`."""


class Recipe(Settings):
    """How the model is made."""

    backbone: str
    """A timm model name."""
    weights: str = "none"
    """Start of the backbone: `none`, `hub` (timm's pretrained), `offline` (EfficientNet-Lite0 package), or a
    `.safetensors` file."""
    epochs: int = Field(10, ge=1)
    first_size: int | None = Field(None, ge=32, multiple_of=32)
    """Image size of the first epochs, from which it grows to `data.image_size`; None: all epochs see the whole size."""
    batch_size: int = Field(64, ge=2)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    min_learning_rate: float = Field(1e-6, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    momentum: Share = 0.9
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    label_smoothing: Share = 0.0
    class_weights: bool = False
    """Weigh the loss by inverse class frequency."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the exponential moving average of the weights, which is then what is validated and kept."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many epochs without a better validation loss."""
    dropout: Share = 0.0
    augment: tuple[Augmentation, ...] = ()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` measures a few steps of each and keeps the faster; machines may differ, and the model card says which."""
    channels_last: bool | Literal["auto"] = "auto"
    coverage: float = Field(0.95, gt=0.5, lt=1)
    """Share of images whose own label is in the conformal set; the threshold of abstention follows from it."""
    seed: int = Field(0, ge=0)


class Floors(Settings):
    """Absolute bounds, each judged on the lower end of its confidence interval."""

    accuracy: Share | None = None
    balanced_accuracy: Share | None = None
    recall: Mapping[str, Share] = {}
    """Class name to the least recall of that class."""


class ChampionRule(Settings):
    """How the candidate is compared with the champion, on the same test split."""

    rule: Literal["non_inferior", "superior"] = "non_inferior"
    margin: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Of `non_inferior`: by how much accuracy the candidate may be worse."""
    min_improvement: Share = 0.0
    """Of `superior`: the candidate must be better by more than this."""


class OperatingPoint(Settings):
    """Recall of the dangerous class where its false alarms are rationed."""

    label: str
    max_false_positive_rate: Annotated[float, Field(gt=0, lt=1)]
    """Share of the images of the other classes that may be taken for `label`."""
    recall: Share


class Slice(Settings):
    """A part of the test split, by one attribute of an image."""

    name: str = Field(min_length=1, max_length=60)
    column: str
    """One of `assay.evaluation.slices.ATTRIBUTES`."""
    below: float | None = None
    above: float | None = None
    equals: str | int | float | None = None
    label: str | None = None
    """Only images of this class."""

    @model_validator(mode="after")
    def _one_condition(self) -> "Slice":
        given = [value for value in (self.below, self.above, self.equals) if value is not None]
        if not given or (self.equals is not None and len(given) > 1):
            raise ValueError("give `below`, `above`, both, or `equals`")
        return self


class Slices(Settings):
    """Parts of the test split on which the candidate must not fail. A part vetoes only what is significantly bad."""

    of: tuple[str | Slice, ...] = ()
    """Slices of one's own, or names of `assay.evaluation.slices.KNOWN`: dark, low_contrast, small, blurred, …"""
    accuracy: Share | None = None
    """A slice whose accuracy is significantly below this stands in the way."""
    max_drop: Share | None = None
    """A slice that is significantly worse than the champion, by more than this, stands in the way."""
    min_images: int = Field(30, ge=1)
    """A smaller slice is reported and judges nothing."""


class Calibration(Settings):
    """How honest the probabilities must be."""

    max_error: Share
    """Expected calibration error, judged on the upper end of its interval."""


class Corruptions(Settings):
    """What must be left of the accuracy when images get worse."""

    min_relative_accuracy: Share
    """Of the right answers to clean images, the share that survives, over all corruptions and severities."""


class Behaviour(Settings):
    """What must not change the answer, each as a share of the images, judged on the lower end of its interval."""

    invariance: Share | None = None
    """Images that keep their answer when they are flipped, or turned by a quarter; for each of these by itself."""
    contrast: Share | None = None
    """Images whose confidence does not rise when their contrast is lowered."""


class Abstention(Settings):
    """Whether the model knows when it does not know; its threshold is fitted on validation (`recipe.coverage`)."""

    coverage: Share | None = None
    """Test images whose own label is in the conformal set."""
    answered: Share | None = None
    """Test images that get an answer, and not `abstained`."""
    unfamiliar_auroc: Share | None = None
    """How well confidence tells the test images from images of something else."""


class Budgets(Settings):
    """What the model may cost."""

    latency_ms: Positive | None = None
    """95th percentile of the time for one image, in ms, on the machine that evaluates."""
    bundle_mb: Positive | None = None
    """Size of the bundle's files, in millions of bytes."""
    parity: Positive | None = None
    """Largest absolute difference of a probability between the ONNX and the torch model."""


class Policy(Settings):
    """What the gate asks for; what is not given is not asked for."""

    floors: Floors = Floors()
    champion: ChampionRule = ChampionRule()
    operating_point: OperatingPoint | None = None
    slices: Slices = Slices()
    calibration: Calibration | None = None
    corruptions: Corruptions | None = None
    behaviour: Behaviour = Behaviour()
    abstention: Abstention = Abstention()
    budgets: Budgets = Budgets()
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of every interval of a test set that is looked at for ever: what all looks at it together may spend."""
    looks: int = Field(20, ge=1, le=1000)
    """How often one test set may be looked at; after that the gate asks for a new one."""
    power: float = Field(0.8, gt=0.5, lt=1)
    """Chance to show what is asked, for which the number of images that would be enough is computed."""


class Challenges(Settings):
    """What the candidate is shown beside the test split; the policy says what is asked of its answers."""

    corruptions: tuple[str, ...] = ()
    """Names of `assay.evaluation.corruptions.CORRUPTIONS`."""
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = (1, 3, 5)
    behaviour: bool = False
    """Whether images are flipped, turned, and shown with less contrast."""
    images: int = Field(200, ge=1)
    """Test images that are altered, chosen by their digests."""
    unfamiliar: int = Field(0, ge=0)
    """Images of something else that are generated and shown."""
    latency: int = Field(0, ge=0)
    """Images that are classified one by one, with a clock."""


class UseCase(Settings):
    """One use case, from its data to what the gate asks of its model."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    data: DataConfig
    expectations: Expectations = Expectations()
    split: SplitConfig = SplitConfig()
    recipe: Recipe
    challenges: Challenges = Challenges()
    policy: Policy = Policy()

    @property
    def making(self) -> "UseCase":
        """The use case without what only judges (expectations, challenges, policy): what the model depends on.

        A model that is judged anew by another policy is still the same model.
        """
        judging = {"expectations": Expectations(), "challenges": Challenges(), "policy": Policy()}
        return self.model_copy(update=judging)


def load_use_case(path: Path, overrides: Mapping[str, Any] | None = None) -> UseCase:
    """Read `parameters.use_case` of a ZenML run configuration.

    Args:
        path: the YAML file.
        overrides: dotted keys below `use_case` to values, such as `{"recipe.epochs": 1}`.

    Raises:
        ConfigError: the file is missing, is no YAML, or does not describe a use case; the message names the keys.
    """
    raw = use_case_document(path)["parameters"]["use_case"]
    for dotted, value in (overrides or {}).items():
        _put(raw, dotted, value)
    try:
        return UseCase.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(error)}") from None


def use_case_document(path: Path) -> dict[str, Any]:
    """The whole run configuration, as far checked as to hold a `parameters.use_case` mapping.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds no use case.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; give the path of a use case, as in configs/") from None
    except NOT_YAML as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    parameters = document.get("parameters") if isinstance(document, dict) else None
    if not isinstance(parameters, dict) or not isinstance(parameters.get("use_case"), dict):
        raise ConfigError(f"{path}: has no `parameters: use_case:` mapping; configs/demo.yaml shows one")
    return dict(document)


def _put(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        raw = raw.setdefault(name, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {dotted}: {name} is not a section")
    raw[last] = value


def _sentence(error: ValidationError) -> str:
    return "; ".join(_problem(dict(item)) for item in error.errors())


def _problem(item: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "use_case"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key{_nearest(item['loc'])}"
    given = "" if item["type"] == "missing" else f" (given: {item['input']!r})"
    return f"{where}: {item['msg'].removeprefix('Value error, ')}{given}"


def _nearest(location: tuple[int | str, ...]) -> str:
    """The known keys beside a misspelt one, nearest first."""
    from difflib import get_close_matches

    model: Any = UseCase
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
    known = list(getattr(model, "model_fields", {}))
    close = get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known keys: {', '.join(known)}" if known else ""
