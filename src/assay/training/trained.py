"""What training leaves behind: the best weights, and what they were trained with."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from assay import digests
from assay.config import Recipe
from assay.errors import AssayError
from assay.preprocess import Geometry
from assay.training.checkpoints import WEIGHTS

FORMAT = 1
TRAINED = "trained.json"


@dataclass(frozen=True)
class Trained:
    """A folder with `weights.safetensors`, of the best epoch by validation, and this as `trained.json`."""

    folder: Path
    weights_digest: str
    backbone: str
    labels: tuple[str, ...]
    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    recipe: Recipe
    data_digest: str
    split_digest: str
    best_epoch: int
    """Counted from 1, as in `history`."""
    history: list[dict[str, float]]
    """Of each epoch: epoch, learning_rate (at its end), train_loss, val_loss,
    val_calibrated_loss (by which the best is chosen), val_accuracy."""
    precision: str
    """fp32 or bf16."""
    channels_last: bool
    wait_share: float
    """Share of the training's time, validation apart, in which it waited for images."""
    images_per_s: float
    """Images trained on a second, validation apart."""
    seconds: float
    """Of training and validation, over all runs if it was continued."""

    @property
    def settled(self) -> Recipe:
        """The recipe with what `auto` came to here: another machine of this kind makes the same weights with it."""
        return self.recipe.model_copy(update={"precision": self.precision, "channels_last": self.channels_last})

    def save(self) -> None:
        """Write `trained.json`; `weights.safetensors` is there already.

        Raises:
            AssayError: it cannot be written.
        """
        document = {"format": FORMAT, **asdict(self), "recipe": self.recipe.model_dump(mode="json")}
        del document["folder"]
        path = self.folder / TRAINED
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise AssayError(f"{path}: cannot be written ({error}); make room and run it again") from None

    @classmethod
    def load(cls, folder: Path) -> "Trained":
        """Read a folder that training has filled.

        Raises:
            AssayError: something is missing, of another format, or not what training wrote.
        """
        trained = _read(folder)
        weights = folder / WEIGHTS
        if not weights.is_file() or digests.of_file(weights) != trained.weights_digest:
            raise AssayError(f"{weights}: missing, or not the weights that {TRAINED} speaks of; train again")
        return trained


def _read(folder: Path) -> Trained:
    path = folder / TRAINED
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        return TypeAdapter(Trained).validate_python({**document, "folder": folder})
    except (OSError, ValueError) as error:  # what pydantic raises is a ValueError too
        raise AssayError(f"{path}: no trained model ({' '.join(str(error).split())}); train again") from None
