"""Which image the steps run in."""

import pytest

pytest.importorskip("zenml", reason="needs the extra pipelines")

from stacks.errors import StackError
from stacks.snapshots import image

DIGEST = "sha256:" + "0" * 64


def test_an_image_is_named_by_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_IMAGE", f"registry.example.com/assay@{DIGEST}")
    assert image(any_tag=False) == f"registry.example.com/assay@{DIGEST}"


@pytest.mark.parametrize("name", ["registry.example.com/assay:latest", f"a b@{DIGEST}", f"assay@{DIGEST[:-1]}"])
def test_a_tag_is_refused_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ASSAY_IMAGE", name)
    with pytest.raises(StackError, match="by its digest"):
        image(any_tag=False)
    assert image(any_tag=True) == name


def test_without_an_image_it_is_said_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_IMAGE", raising=False)
    with pytest.raises(StackError, match="ASSAY_IMAGE is not set"):
        image(any_tag=True)
