"""A step that did not get its machine says so at once, and names the setting."""

import os
from pathlib import Path

import pytest
import torch

from assay import promised
from assay.promised import PromiseBroken, require


def test_where_nothing_is_promised_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (promised.GPUS, promised.SHM):
        monkeypatch.delenv(name, raising=False)
    require()


def test_what_is_missing_is_told_with_the_settings_that_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(promised.GPUS, str(torch.cuda.device_count() + 1))
    monkeypatch.setenv(promised.SHM, str(2**60))
    with pytest.raises(PromiseBroken) as error:
        require()
    assert "settings.orchestrator.gpu_count asks for" in str(error.value)
    assert "settings.orchestrator.shm asks for 1,152,921,504,606,846,976 bytes" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = os.statvfs("/dev/shm")
    monkeypatch.setenv(promised.SHM, str(volume.f_blocks * volume.f_frsize))
    require()


def test_without_the_volume_there_is_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(promised, "_SHM", tmp_path / "none")
    monkeypatch.setenv(promised.SHM, "1")
    with pytest.raises(PromiseBroken, match="has 0"):
        require()


def test_a_promise_that_is_no_number_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(promised.GPUS, "one")
    with pytest.raises(PromiseBroken, match="no number"):
        require()
