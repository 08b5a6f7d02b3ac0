"""What a step asks of its pod: one set of settings for Kubeflow and for Kubernetes.

They stand in a use case's YAML below `settings: orchestrator:`, for all steps or for one, and nowhere else: a local run
ignores them. Sizes are Kubernetes quantities (`512Mi`, `8Gi`).
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from zenml.config.base_settings import BaseSettings

from assay import promised
from stacks.errors import StackError, sentence

PLACE = "settings.orchestrator"
SHM = "/dev/shm"  # noqa: S108 - the place that libraries look for
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"

Size = Annotated[str, Field(pattern=_SIZE)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""Name of a Kubernetes object."""
AbsolutePath = Annotated[str, Field(pattern=r"^/[^:]*$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Volume(_Part):
    """A persistent volume claim, mounted."""

    claim: Name
    path: AbsolutePath
    sub_path: str = ""


class Toleration(_Part):
    """A taint that the pod puts up with."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = Field(None, ge=0)
    """How long a `NoExecute` taint is put up with; None: for ever."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("`Exists` takes no value")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("`Equal` needs a key")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("`seconds` is for the effect NoExecute")
        return self


class SecretVariables(_Part):
    """Keys of a Kubernetes secret as environment variables."""

    secret: Name
    env: Mapping[Variable, str] = Field(min_length=1)
    """Variable to the key in the secret."""


class Pod(BaseSettings):
    """What one step asks of its pod. Unknown settings are errors, here and not at run time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: float | None = Field(None, gt=0)
    """Cores, as request and as limit."""
    memory: Size | None = None
    """As request and as limit: what is above it is killed."""
    gpu_count: int = Field(0, ge=0)
    accelerator: str = Field("nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")
    """The resource by which the cluster counts its GPUs."""
    shm: Size | None = None
    """Size of /dev/shm, in memory, and part of `memory`; without it a container has 64 MB."""
    volumes: tuple[Volume, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    node_selector: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    secrets: tuple[SecretVariables, ...] = ()
    image_pull_secrets: tuple[Name, ...] = ()
    priority_class: Name | None = None
    """Kubernetes only: Kubeflow Pipelines has no place for it."""
    retries: int = Field(0, ge=0, le=20)
    """How often the cluster starts the step again, in a new pod, with growing pauses."""
    time_limit: int = Field(0, ge=0)
    """Seconds after which a try of the step is ended; 0: none."""

    @model_validator(mode="wrap")
    @classmethod
    def _one_line(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # ZenML catches pydantic's error and tells the class and all values instead of the one that is wrong.
        if isinstance(data, Mapping):
            _refuse_unknown(cls, data)
        try:
            return handler(data)
        except ValidationError as error:
            raise StackError(sentence(error, PLACE)) from None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.shm and self.memory and in_bytes(self.shm) >= in_bytes(self.memory):
            raise StackError(f"{PLACE}.shm: {self.shm} is part of `memory` and must be less than its {self.memory}")
        paths = [volume.path for volume in self.volumes] + ([SHM] if self.shm else [])
        if len(set(paths)) < len(paths):
            raise StackError(f"{PLACE}.volumes: two volumes at one path: {', '.join(sorted(paths))}")
        return self


def promises(pod: Pod) -> dict[str, str]:
    """Variables by which a step can see whether it got what it was promised: `assay.promised`."""
    asked = {promised.GPUS: pod.gpu_count, promised.SHM: in_bytes(pod.shm) if pod.shm else 0}
    return {name: str(value) for name, value in asked.items() if value}


def in_bytes(size: str) -> int:
    """Bytes of a Kubernetes quantity."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", size).groups()  # type: ignore[union-attr] # Size has its form
    return int(float(number) * UNITS[unit])


def _refuse_unknown(model: type[BaseSettings], data: Mapping[str, Any]) -> None:
    for name in data:
        if name not in model.model_fields:
            close = get_close_matches(name, Pod.model_fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(Pod.model_fields)}"
            raise StackError(f"{PLACE}.{name}: unknown setting; {hint}")
