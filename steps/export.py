"""Turn trained weights into a bundle, the only thing that passes from training to serving."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy

from assay.config import UseCase
from assay.console import say
from assay.data.dataset import Dataset
from assay.home import subfolder
from assay.lineage import collect
from assay.models.bundle import Bundle
from assay.models.export import export as export_bundle
from assay.training import Trained
from steps.caching import code_digest
from steps.materializers import BundleMaterializer


def code() -> str:
    """Digest of the library code behind this step."""
    return code_digest(__file__)


@step(cache_policy=CachePolicy(cache_func=code), output_materializers=BundleMaterializer)
def export(trained: Trained, dataset: Dataset, use_case: UseCase) -> Annotated[Bundle, "candidate"]:
    """Calibrate on validation, export to ONNX, and hold the graph against torch."""
    folder = subfolder("export") / use_case.name
    bundle = export_bundle(trained, dataset, folder, collect(use_case, dataset), name=use_case.name)
    difference = bundle.meta.parity.max_abs_difference
    say("export", f"bundle {bundle.digest[:12]}  ONNX within {difference:.0e} of torch")
    return bundle
