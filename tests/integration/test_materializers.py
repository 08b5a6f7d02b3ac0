"""What passes between steps on a cluster: through a real S3 server, whole, and with nothing left on the disk."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from assay.models.bundle import Bundle

from team import S3Server
from toybundle import toy_bundle

pytest.importorskip("s3fs", reason="needs the extra kubeflow")

pytestmark = pytest.mark.long


def test_a_bundle_goes_through_s3_and_stays_itself(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zenml.enums import StackComponentType
    from zenml.integrations.s3.artifact_stores import S3ArtifactStore
    from zenml.integrations.s3.flavors import S3ArtifactStoreConfig

    from steps.materializers import BundleMaterializer

    config = S3ArtifactStoreConfig(
        path="s3://images", key="key", secret=s3.secret, client_kwargs={"endpoint_url": s3.endpoint}
    )
    now = datetime.now(UTC)
    store = S3ArtifactStore(
        name="s3", id=uuid4(), config=config, flavor="s3", type=StackComponentType.ARTIFACT_STORE, user=uuid4(),
        created=now, updated=now,
    )  # fmt: skip
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
    bundle = toy_bundle(tmp_path / "bundle")
    materializer = BundleMaterializer(uri="s3://images/artifact", artifact_store=store)
    materializer.save(bundle)
    assert not list((tmp_path / "disk").iterdir())
    assert materializer.load(Bundle).digest == bundle.digest
