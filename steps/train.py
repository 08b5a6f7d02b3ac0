"""Train the model of the recipe."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy

from assay.config import UseCase
from assay.data.dataset import Dataset
from assay.home import subfolder
from assay.lineage import collect
from assay.promised import require
from assay.training import Trained
from assay.training import train as train_model
from steps.caching import code_digest
from steps.materializers import TrainedMaterializer
from steps.outputs import tracked_run


def code() -> str:
    """Digest of the library code behind this step."""
    return code_digest(__file__)


@step(cache_policy=CachePolicy(cache_func=code), output_materializers=TrainedMaterializer)
def train(dataset: Dataset, use_case: UseCase) -> Annotated[Trained, "trained"]:
    """Train on the training split, choose on validation; the test split is not touched."""
    require()
    run = tracked_run(use_case.name)
    run.log_params(use_case.model_dump(mode="json", exclude={"policy"}))
    lineage = collect(use_case, dataset)
    run.set_tags({"git_commit": lineage.git_commit, "data_digest": lineage.data_digest, **lineage.versions})
    folder = subfolder("training", use_case.name)
    return train_model(dataset, use_case.recipe, folder, log=run.log_metrics)
