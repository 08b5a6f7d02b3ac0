"""A candidate judged outside of a pipeline: a registered version or a bundle, on its own test split or new images."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from assay import crown, registry
from assay.config import UseCase, load_use_case
from assay.console import say
from assay.data.dataset import Dataset
from assay.data.scan import scan_source
from assay.data.splits import split
from assay.errors import BundleError, ConfigError, DataError
from assay.evaluation.evidence import META, Champion, Evidence, gather
from assay.evaluation.fresh import all_as_test
from assay.evaluation.metrics import Metrics, measure
from assay.gate.deciding import decide
from assay.gate.ledger import Ledger
from assay.gate.verdict import Verdict
from assay.home import subfolder
from assay.models.bundle import META as BUNDLE_META
from assay.models.bundle import Bundle

VERDICT, USE_CASE = "verdict.json", "use_case.json"
NOBODY = "none"
"""In place of a champion: there is nothing to compare with."""


@dataclass(frozen=True)
class Assessment:
    """A verdict, and what it was drawn from."""

    verdict: Verdict
    metrics: Metrics
    evidence: Evidence


def assess(
    candidate: str, use_case: UseCase, champion: str | None = None, source: str | None = None, bootstrap: bool = False
) -> Assessment:
    """Judge a candidate by a use case's policy, as the training pipeline would.

    Args:
        candidate: `name@version`, `name@alias`, or the folder of a bundle or of saved evidence.
        use_case: its policy, challenges and data.
        champion: `name@version` or a bundle's folder to compare with, or `none`; by default the ledger's champion.
        source: labelled images to judge on, all of them; by default the test split of the use case's data.
        bootstrap: allow a first promotion, while there is no champion.

    Raises:
        AssayError: something is missing or unreadable, or the candidate was trained on another split of this data.
    """
    evidence = _evidence(candidate, use_case, champion, source)
    verdict = decide(evidence, use_case.policy, bootstrap, Ledger.open(use_case.name))
    (evidence.folder / VERDICT).write_bytes(verdict.canonical)
    say("gate", f"{verdict.decision}  {verdict.reasons[0]}")
    return Assessment(verdict, measure(evidence.candidate, evidence.meta.labels, verdict.confidence), evidence)


def bundle_of(reference: str) -> Bundle:
    """A bundle by its folder, or by `name@version` or `name@alias` in the registry."""
    if (Path(reference) / BUNDLE_META).is_file():
        return Bundle.load(Path(reference))
    return registry.fetch(registry.find(reference))


def version_of(reference: str) -> str:
    """Version of a registered model; of a bundle's folder the first digits of its digest."""
    if (Path(reference) / BUNDLE_META).is_file():
        return Bundle.load(Path(reference)).digest[:12]
    return registry.find(reference).version


def test_split(use_case: UseCase, bundle: Bundle) -> Dataset:
    """The data of a use case, split as when the bundle was trained.

    Raises:
        BundleError: the data is split in another way now.
        DataError: it cannot be read.
    """
    dataset = split(scan_source(use_case.data), use_case.split)
    if bundle.meta.lineage.split_digest != dataset.split_digest:
        raise BundleError(
            f"{bundle.folder}: was trained on another split of {use_case.data.source}, so images of its training may "
            "be among the test images now; train it again, or give images that it has never met with --data"
        )
    return dataset


def use_case_of(candidate: str) -> str:
    """Name of the use case that a candidate, as `assess` takes it, belongs to."""
    if (Path(candidate) / META).is_file():
        return Evidence.load(Path(candidate)).meta.use_case
    return bundle_of(candidate).meta.name


def config_of(candidate: str) -> Path:
    """The use case's YAML of a candidate: as it was last trained, or as it stands in `configs/`.

    Raises:
        ConfigError: there is none.
    """
    name = use_case_of(candidate)
    places = [subfolder("configs") / f"{name}.yaml", Path("configs") / f"{name}.yaml"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(f"no use case {name!r} in configs/; give its YAML with --policy")
    return found


def use_case_as_trained(reference: str) -> UseCase:
    """The use case that a registered version was trained as; of one that was registered without, its YAML here.

    Raises:
        ConfigError: it cannot be read, or there is none.
        RegistryError: there is no such version, or the registry does not answer.
    """
    try:
        return UseCase.model_validate_json(registry.text(registry.find(reference), USE_CASE))
    except registry.Absent:
        return load_use_case(config_of(reference))
    except ValidationError as error:
        raise ConfigError(
            f"{reference}: this version of Assay cannot read the {USE_CASE} that it was registered with "
            f"({error.errors()[0]['msg']}); give the use case's YAML with --policy"
        ) from None


def verdict_of(reference: str) -> Verdict:
    """A verdict by its file, or by the registered `name@version` that it was made on.

    Raises:
        AssayError: there is no such file or version, or it holds no verdict.
    """
    path = Path(reference)
    path = path / VERDICT if path.is_dir() else path
    try:
        content = path.read_bytes() if path.exists() else registry.text(registry.find(reference), VERDICT)
        return Verdict.model_validate_json(content)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; give a verdict.json, or a name@version") from None
    except ValidationError as error:
        raise DataError(f"{reference}: no verdict: {error.errors()[0]['msg']}") from None


def _evidence(candidate: str, use_case: UseCase, champion: str | None, source: str | None) -> Evidence:
    if (Path(candidate) / META).is_file():
        return Evidence.load(Path(candidate))
    bundle, rival = bundle_of(candidate), _champion(use_case.name, champion)
    dataset = all_as_test(bundle, source) if source else test_split(use_case, bundle)
    folder = subfolder("evidence") / f"{use_case.name}-{bundle.digest[:12]}-{dataset.split_digest[:12]}"
    return gather(bundle, rival, dataset, use_case.name, folder, use_case.challenges)


def _champion(name: str, reference: str | None) -> Champion | None:
    if reference == NOBODY:
        return None
    if reference is not None:
        return Champion(reference, bundle_of(reference))
    version, crowned = crown.champion_of(name)
    return registry.champion_bundle(name, version, crowned) if version else None
