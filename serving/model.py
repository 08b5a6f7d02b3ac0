"""Which model is served: found, checked byte by byte, and shown to give here what it gave where it was exported."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assay.errors import BundleError
from assay.models.bundle import CARD, Bundle, BundleMeta
from assay.models.predictor import Predictor
from serving import runtimes
from serving.settings import Settings


@dataclass(frozen=True)
class ModelInfo:
    """What is known of the model that is served."""

    name: str
    version: str
    """Of the registry, or as the settings say."""
    digest: str
    """Of its bundle."""
    labels: tuple[str, ...]
    runtime: str
    """What computes it, and in which precision: `onnxruntime 1.31.1, fp32`, see `serving.runtimes`."""
    meta: BundleMeta
    card: str
    """The model card, Markdown."""

    @property
    def identity(self) -> dict[str, str]:
        """What each answer says of the model."""
        return {"name": self.name, "version": self.version, "digest": self.digest}

    def described(self, limits: Mapping[str, float]) -> dict[str, Any]:
        """All that clients are told of the model and of the limits of the service, fit for JSON."""
        told = self.meta.model_dump(mode="json", include={"labels", "thresholds", "abstention", "parity", "lineage"})
        geometry = asdict(self.meta.geometry)
        return {
            **self.identity,
            **told,
            "geometry": geometry,
            "runtime": self.runtime,
            "limits": dict(limits),
            "card": self.card,
        }


def load(settings: Settings) -> tuple[Predictor, ModelInfo]:
    """The model that the settings name, ready to answer.

    Raises:
        SettingsError: no model is named, or a runtime that is not installed.
        BundleError: its bundle is not whole, not the one that was asked for, has no sensible labels, or does not
            reproduce its golden outputs in this process.
        RegistryError: the registry does not have it.
    """
    bundle, name, version = _find(settings)
    _check_labels(bundle)
    plain = Predictor(bundle, settings.threads)
    plain.check_golden()
    predictor, runtime = runtimes.choose(plain, settings)
    card = bundle.read(CARD).decode("utf-8", "replace")
    return predictor, ModelInfo(name, version, bundle.digest, bundle.meta.labels, runtime, bundle.meta, card)


def _find(settings: Settings) -> tuple[Bundle, str, str]:
    """The bundle, and name and version of the model."""
    settings.check_model_is_named()
    if settings.bundle:
        bundle = Bundle.load(Path(settings.bundle), settings.digest or None)
        return bundle, bundle.meta.name, settings.version or bundle.digest[:12]
    from assay import registry  # noqa: PLC0415  # it brings MLflow, which an image with a bundle in it does not have

    found = registry.find(settings.model)
    if settings.digest and found.digest != settings.digest:
        raise BundleError(f"{settings.model}: is bundle {found.digest}, expected {settings.digest}")
    return registry.fetch(found), found.name, found.version


def _check_labels(bundle: Bundle) -> None:
    labels = bundle.meta.labels
    if len(labels) < 2 or any(not label.strip() for label in labels):
        raise BundleError(f"{bundle.folder}: labels are {list(labels)[:5]}: at least two, none blank, are needed")
