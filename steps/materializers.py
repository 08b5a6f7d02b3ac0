"""How the folders that pass between steps are stored: as plain files, and never as pickles.

On a local artifact store nothing is copied: shards are hard links, and an artifact is read where it lies.
"""

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

from zenml.enums import ArtifactType
from zenml.io import fileio
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.utils.io_utils import create_dir_recursive_if_not_exists

from assay.data.dataset import Dataset
from assay.digests import of_file, of_json
from assay.evaluation.evidence import Evidence
from assay.models.bundle import Bundle
from assay.training import Trained


class FolderMaterializer(BaseMaterializer):
    """Stores a folder; a subclass says how its type is made a folder and read from one."""

    SKIP_REGISTRATION: ClassVar[bool] = True

    def load(self, data_type: type[Any]) -> Any:
        return self.read(self._fetched())

    def save(self, data: Any) -> None:
        if _is_local(self.uri):
            self.write(data, Path(self.uri))
            return
        with self.get_temporary_directory(delete_at_exit=True) as made:
            self.write(data, Path(made))
            _upload(Path(made), self.uri)

    def write(self, data: Any, folder: Path) -> None:
        """Write the artifact's files into `folder`; by default, those of the folder that it already is."""
        _link_tree(data.folder, folder)

    def read(self, folder: Path) -> Any:
        """The artifact that `write` put into `folder`."""
        return self.ASSOCIATED_TYPES[0].load(folder)

    def _fetched(self) -> Path:
        if _is_local(self.uri):
            return Path(self.uri)
        with self.get_temporary_directory(delete_at_exit=False) as made:  # the step is not done with it
            _download(self.uri, Path(made))
        return Path(made)


class DatasetMaterializer(FolderMaterializer):
    """The manifest as Parquet, and the shards that its rows point into."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Dataset,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def write(self, data: Dataset, folder: Path) -> None:
        for name in sorted(set(data.manifest["shard"].to_pylist()) - {""}):
            _link(data.shards / f"{name}", folder / "shards" / f"{name}")
        data.save(folder)

    def read(self, folder: Path) -> Dataset:
        return Dataset.load(folder, shards=folder / "shards")

    def compute_content_hash(self, data: Dataset) -> str:
        return of_json([data.digest, data.split_digest])

    def extract_metadata(self, data: Dataset) -> dict[str, Any]:
        return {"rows": data.manifest.num_rows, "labels": list(data.labels), "digest": data.digest}


class TrainedMaterializer(FolderMaterializer):
    """The best weights, and what they were trained with."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Trained,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.MODEL

    def compute_content_hash(self, data: Trained) -> str:
        recipe = data.recipe.model_dump(mode="json")
        return of_json([of_file(data.folder / "weights.safetensors"), recipe, data.data_digest, data.split_digest])


class BundleMaterializer(FolderMaterializer):
    """A bundle, as it is."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Bundle,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.MODEL

    def compute_content_hash(self, data: Bundle) -> str:
        return data.digest

    def extract_metadata(self, data: Bundle) -> dict[str, Any]:
        return {"digest": data.digest, "labels": list(data.meta.labels)}


class EvidenceMaterializer(FolderMaterializer):
    """Per-example predictions of candidate and champion."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Evidence,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def compute_content_hash(self, data: Evidence) -> str:
        return data.digest


def _is_local(uri: str) -> bool:
    return "://" not in uri


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _link_tree(source: Path, target: Path) -> None:
    for file in (p for p in source.rglob("*") if p.is_file()):
        _link(file, target / file.relative_to(source))


def _upload(folder: Path, uri: str) -> None:
    for file in (p for p in folder.rglob("*") if p.is_file()):
        remote = f"{uri}/{file.relative_to(folder).as_posix()}"
        create_dir_recursive_if_not_exists(os.path.dirname(remote))  # noqa: PTH120 - a URI, no path
        fileio.copy(str(file), remote)


def _download(uri: str, folder: Path) -> None:
    for place, _, names in fileio.walk(uri):
        below = folder / os.path.relpath(str(place), uri)
        below.mkdir(parents=True, exist_ok=True)
        for name in names:
            fileio.copy("/".join((str(place), str(name))), str(below / str(name)))
