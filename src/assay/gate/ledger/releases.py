"""A release, as the ledger holds it: what is deployed to an environment, with all that it takes to deploy it again."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assay import digests
from assay.gate.looks import Digest, Record

Environment = Literal["staging", "production"]
ENVIRONMENTS: tuple[Environment, ...] = ("staging", "production")
CROWNED: Environment = "production"
"""The environment whose release is the champion."""

MAX_MANIFESTS = 48_000
"""Characters; with the rest of its entry they must fit into `MAX_BYTES` of the ledger."""

VersionName = Annotated[str, Field(pattern=r"^[!-~]{1,100}$")]


class Release(Record):
    """A bundle and an image, for an environment."""

    bundle_digest: Digest
    environment: Environment
    golden_digest: Digest
    """Of the golden images that are sent to it, with the answers that it must give."""
    image: Annotated[str, Field(max_length=500, pattern=r"^([!-~]+@sha256:[0-9a-f]{64})?$")]
    """`name@sha256:…`; a process on this machine has none."""
    manifests: str = Field(max_length=MAX_MANIFESTS)
    """What is applied to a cluster, YAML; empty for a process. It is here so that a rollback needs nothing else."""
    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    target: Literal["kubernetes", "process"]
    version: VersionName

    @model_validator(mode="after")
    def _has_what_its_target_needs(self) -> Self:
        if {bool(self.image), bool(self.manifests)} != {self.target == "kubernetes"}:
            raise ValueError("a release on a cluster has an image and manifests, and one of a process has neither")
        return self

    @property
    def digest(self) -> str:
        """Its identity: SHA-256 of its canonical JSON."""
        return digests.of_bytes(self.model_dump_json().encode())

    @property
    def label(self) -> str:
        """Enough of its digest to tell it from others, valid as the value of a Kubernetes label."""
        return self.digest[:12]

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"
