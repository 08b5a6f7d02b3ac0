from pathlib import Path

import pytest
import safetensors.torch
import torch

from assay.errors import AssayError
from assay.training import checkpoints
from assay.training.checkpoints import CHECKPOINT, Tensors


@pytest.fixture
def tensors() -> Tensors:
    shared = torch.arange(6.0)
    return {
        "a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "b": shared[:3],
        "c": shared[3:],
        "count": torch.tensor(7),
    }


def saved(folder: Path, tensors: Tensors, epoch: int = 1) -> dict[str, object]:
    facts = {"epoch": epoch, "loss": 0.1 + 0.2, "best": checkpoints.save_best(folder, epoch, tensors)}
    checkpoints.save(folder, "key", tensors, facts)
    return facts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back_exactly(tmp_path: Path, tensors: Tensors) -> None:
    facts = saved(tmp_path, tensors)
    found = checkpoints.load(tmp_path, "key")
    assert found is not None
    assert found.facts == facts
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)


def test_nothing_there_is_nothing_found(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path, "key") is None
    assert checkpoints.load(tmp_path / "nowhere", "key") is None


def test_another_key_is_not_taken(tmp_path: Path, tensors: Tensors) -> None:
    saved(tmp_path, tensors)
    assert checkpoints.load(tmp_path, "other") is None


@pytest.mark.parametrize("file", [CHECKPOINT, "best-0001.safetensors"])
def test_a_truncated_file_is_not_taken(tmp_path: Path, tensors: Tensors, file: str) -> None:
    saved(tmp_path, tensors)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-4])
    assert checkpoints.load(tmp_path, "key") is None


def test_other_best_weights_are_not_taken(tmp_path: Path, tensors: Tensors) -> None:
    saved(tmp_path, tensors)
    checkpoints.save_best(tmp_path, 1, {"a": torch.ones(1)})
    assert checkpoints.load(tmp_path, "key") is None


def test_a_strange_file_is_not_taken(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / CHECKPOINT)
    assert checkpoints.load(tmp_path, "key") is None


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, tensors)
    before = names(tmp_path)

    def full(tensors: object, path: Path, metadata: object = None) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(AssayError, match=r"checkpoint\.safetensors: cannot be written .*No space left.* make room"):
        checkpoints.save(tmp_path, "key", tensors, {})
    monkeypatch.undo()
    assert names(tmp_path) == before
    assert checkpoints.load(tmp_path, "key") is not None


def test_publishing_copies_the_best(tmp_path: Path, tensors: Tensors) -> None:
    best = checkpoints.save_best(tmp_path, 3, tensors)
    assert checkpoints.publish(tmp_path, best["file"]) == best["digest"]
    assert names(tmp_path) == ["best-0003.safetensors", "weights.safetensors"]


def test_same_tensors_same_bytes(tmp_path: Path, tensors: Tensors) -> None:
    turned = dict(reversed(tensors.items()))
    assert checkpoints.save_best(tmp_path, 1, tensors)["digest"] == checkpoints.save_best(tmp_path, 2, turned)["digest"]


def test_clearing_keeps_what_is_asked_for(tmp_path: Path, tensors: Tensors) -> None:
    saved(tmp_path, tensors, 1)
    saved(tmp_path, tensors, 2)
    (tmp_path / ".checkpoint.safetensors.99.partial").write_bytes(b"left by a crash")
    checkpoints.clear(tmp_path, keep="best-0002.safetensors")
    assert names(tmp_path) == ["best-0002.safetensors", CHECKPOINT]
    checkpoints.clear(tmp_path)
    assert names(tmp_path) == []
