import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from assay import digests
from assay.config import Recipe
from assay.data.dataset import Dataset, from_arrays
from assay.errors import BundleError
from assay.models import backbones, export
from assay.models.abstention import Abstention, fit_abstention
from assay.models.bundle import Bundle, Lineage
from assay.models.calibration import fit_temperature
from assay.models.predictor import Predictor, run, session
from assay.preprocess import Geometry
from assay.training import Trained

SIZE = 32
LABELS = ("blue", "green", "red")
MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
GEOMETRY = Geometry(SIZE)
BACKBONE = "test_resnet"


def trained_as(weights: dict[str, torch.Tensor], data: Dataset, folder: Path) -> Trained:
    """What training would have left in `folder`, had it found these weights."""
    folder.mkdir(parents=True)
    save_file(weights, folder / "weights.safetensors")
    trained = Trained(
        folder=folder,
        weights_digest=digests.of_file(folder / "weights.safetensors"),
        backbone=BACKBONE,
        labels=LABELS,
        geometry=GEOMETRY,
        mean=MEAN,
        std=STD,
        recipe=Recipe(backbone=BACKBONE),
        data_digest=data.digest,
        split_digest=data.split_digest,
        best_epoch=1,
        history=[],
        precision="fp32",
        channels_last=False,
        wait_share=0.0,
        images_per_s=1.0,
        seconds=1.0,
    )
    trained.save()
    return trained


def colours(n: int, size: int = SIZE) -> tuple[np.ndarray, list[str]]:
    """Noise, tinted by its label, and labels in turn."""
    images = np.random.default_rng(n).integers(0, 200, (n, size, size, 3), dtype=np.uint8)
    for index in range(n):
        images[index, ..., 2 - index % 3] += 40
    return images, [LABELS[index % 3] for index in range(n)]


def dataset(folder: Path, n: int = 180) -> Dataset:
    images, labels = colours(n)
    splits = ["validation" if index % 9 < 6 else "train" for index in range(n)]
    return from_arrays(images, labels, folder, splits=splits)


def trained_on(data: Dataset, folder: Path) -> Trained:
    """A net with random weights, and a head fitted to what it makes of the training images."""
    torch.manual_seed(0)
    net = backbones.build(BACKBONE, len(LABELS), image_size=SIZE).eval()
    train = data.subset("train")
    pixels = torch.from_numpy(train.read(np.arange(len(train))))
    head, net.fc = net.fc, torch.nn.Identity()
    with torch.no_grad():
        features = export.Servable(net, MEAN, STD).logits(pixels)
        wanted = 4 * torch.nn.functional.one_hot(torch.from_numpy(train.targets)).float()
        head.weight.copy_(torch.linalg.lstsq(features, wanted).solution.T)
    net.fc = head
    return trained_as(net.state_dict(), data, folder)


def lineage(trained: Trained) -> Lineage:
    return Lineage(
        git_commit="c0ffee",
        git_dirty=False,
        data_digest=trained.data_digest,
        split_digest=trained.split_digest,
        config_digest="c",
        versions={"torch": torch.__version__},
    )


@dataclass(frozen=True)
class Made:
    data: Dataset
    trained: Trained
    bundle: Bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    data = dataset(folder / "shards")
    data.save(folder / "data")
    trained = trained_on(data, folder / "trained")
    return Made(data, trained, export.export(trained, data, folder / "bundle", lineage(trained), "demo"))


def torch_logits(trained: Trained, pixels: np.ndarray) -> np.ndarray:
    """Logits as training computes them: float32 NCHW, pixels / 255, normalised."""
    net = backbones.build(trained.backbone, len(trained.labels), image_size=SIZE).eval()
    net.load_state_dict(load_file(trained.folder / "weights.safetensors"))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (trained.mean, trained.std))
    with torch.inference_mode():
        return net((images - mean) / std).numpy()


def test_the_bundle_is_whole_and_reproduces_its_golden_outputs(made: Made) -> None:
    assert Bundle.load(made.bundle.folder) == made.bundle
    Predictor(made.bundle, threads=1).check_golden()


def test_the_card_names_what_it_was_trained_in(made: Made) -> None:
    assert made.trained.recipe.precision == "auto"
    told = made.bundle.read("card.md").decode()
    assert "| precision | fp32 |" in told
    assert "| channels_last | False |" in told


def test_probabilities_are_the_calibrated_softmax_of_the_logits_of_torch(made: Made) -> None:
    validation = made.data.subset("validation")
    pixels = validation.read(np.arange(len(validation)))
    logits = torch_logits(made.trained, pixels)
    temperature = fit_temperature(logits, validation.targets)
    expected = torch.softmax(torch.from_numpy(logits / temperature), dim=1).numpy()
    assert made.bundle.meta.temperature == pytest.approx(temperature, abs=2e-4)
    assert temperature != 1.0
    assert expected.std(axis=0).min() > 0.05
    np.testing.assert_allclose(Predictor(made.bundle).probabilities(pixels), expected, atol=2e-4)


def test_abstention_is_fitted_on_the_calibrated_probabilities_of_validation(made: Made) -> None:
    validation = made.data.subset("validation")
    p = Predictor(made.bundle).probabilities(validation.read(np.arange(len(validation))))
    fitted = made.bundle.meta.abstention
    assert fitted is not None
    assert fitted.coverage == made.trained.recipe.coverage
    expected = fit_abstention(p, validation.targets, fitted.coverage)
    assert 0 < fitted.threshold == pytest.approx(expected.threshold, abs=3e-4)


def test_a_model_that_can_only_abstain_is_exported_with_a_warning(
    tiny: tuple[Trained, Dataset], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = replace(tiny[0], recipe=tiny[0].recipe.model_copy(update={"coverage": 0.999}))
    bundle = export.export(trained, tiny[1], tmp_path / "bundle", lineage(trained))
    assert bundle.meta.abstention == Abstention(coverage=0.999, threshold=0)
    assert "abstain from every image: 120 validation images" in capfd.readouterr().err


def test_meta_tells_what_was_exported(made: Made) -> None:
    meta = made.bundle.meta
    assert (meta.name, meta.labels, meta.geometry) == ("demo", LABELS, Geometry(SIZE))
    assert (meta.mean, meta.std, meta.lineage) == (MEAN, STD, lineage(made.trained))
    assert (meta.parity.images, meta.parity.top1_agreement) == (120, 1.0)
    assert meta.parity.max_abs_difference <= export.MAX_DIFFERENCE


def test_weights_are_those_that_were_trained(made: Made) -> None:
    was, now = (load_file(folder / "weights.safetensors") for folder in (made.trained.folder, made.bundle.folder))
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)


def test_a_fresh_process_writes_the_same_bytes(made: Made, tmp_path: Path) -> None:
    script = f"""
        import importlib.util, pathlib, sys
        spec = importlib.util.spec_from_file_location("test_export", {__file__!r})
        here = sys.modules["test_export"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(here)
        data = here.Dataset.load(pathlib.Path({str(made.bundle.folder.parent / "data")!r}))
        trained = here.Trained.load(pathlib.Path({str(made.trained.folder)!r}))
        here.export.export(trained, data, pathlib.Path("bundle"), here.lineage(trained), "demo")
    """
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert Bundle.load(tmp_path / "bundle").files == made.bundle.files


def test_nothing_of_the_machine_is_in_the_bundle(made: Made) -> None:
    places = [str(made.bundle.folder.parent), str(Path(export.__file__).parents[3]), sys.prefix, "site-packages"]
    content = b"".join(path.read_bytes() for path in made.bundle.folder.iterdir())
    assert [place for place in places if place.encode() in content] == []


def messages(proto: Any) -> Iterator[Any]:
    yield proto
    for field, value in proto.ListFields():
        if field.message_type is not None:
            for child in value if field.is_repeated else (value,):
                yield from messages(child)


def test_the_graph_is_plain(made: Made) -> None:
    proto = onnx.load_from_string(made.bundle.read("model.onnx"))
    notes = [
        m for m in messages(proto) for field, _ in m.ListFields() if field.name in ("metadata_props", "doc_string")
    ]
    assert notes == []
    assert {node.domain for node in proto.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", made.bundle.meta.opset)]
    assert not {"BatchNormalization", "Gather", "Shape"} & {node.op_type for node in proto.graph.node}


class Tiny(torch.nn.Module):
    """Logits by the mean of each channel: small enough to export in a moment."""

    def __init__(self, classes: int = len(LABELS)) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean((2, 3)))


TINY_WEIGHTS = {"head.weight": torch.eye(3).flip(0).contiguous(), "head.bias": torch.tensor([0.8, 0.1, -0.6])}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Trained, Dataset]:
    """A trained `Tiny`, which names the colour of an image."""
    monkeypatch.setattr(backbones, "build", lambda name, classes, **rest: Tiny(classes))
    data = dataset(tmp_path / "shards")
    return trained_as(TINY_WEIGHTS, data, tmp_path / "trained"), data


def test_the_graph_normalises_red_green_and_blue_apart(tiny: tuple[Trained, Dataset]) -> None:
    torch.manual_seed(1)
    net = Tiny()
    pixels, _ = colours(5)
    means = (pixels.mean(axis=(1, 2)) / 255 - MEAN) / STD
    logits = means @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()
    odds = np.exp(logits / 2.5)
    model = export.to_onnx(export.Servable(net, MEAN, STD, temperature=2.5).eval(), SIZE)
    probabilities = run(session(model.SerializeToString()), pixels)
    np.testing.assert_allclose(probabilities, odds / odds.sum(axis=1, keepdims=True), atol=1e-5)


def test_the_same_weights_give_the_same_bundle_and_others_another(
    tiny: tuple[Trained, Dataset], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (export.export(*tiny, tmp_path / name, lineage(tiny[0])) for name in ("first", "second"))
    changed = trained_as({**TINY_WEIGHTS, "head.bias": torch.zeros(3)}, tiny[1], tmp_path / "changed")
    other = export.export(changed, tiny[1], tmp_path / "other", lineage(changed))
    assert first.digest == second.digest != other.digest
    captured = capfd.readouterr()
    assert captured.out == ""
    assert all(line.startswith("export    temperature") for line in captured.err.splitlines())


def refused(tiny: tuple[Trained, Dataset], folder: Path, message: str) -> None:
    """Exporting raises one line that matches, and writes nothing."""
    before = sorted(folder.parent.iterdir())
    with pytest.raises(BundleError, match=message) as caught:
        export.export(*tiny, folder, lineage(tiny[0]))
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(folder.parent.iterdir()) == before


@pytest.mark.parametrize("what", ["data_digest", "split_digest", "labels"])
def test_another_data_set_than_trained_on_is_refused(tiny: tuple[Trained, Dataset], tmp_path: Path, what: str) -> None:
    other: Any = {"labels": LABELS[::-1]}.get(what, "another")
    refused((replace(tiny[0], **{what: other}), tiny[1]), tmp_path / "bundle", "differ .*export with the data set")


def test_an_empty_validation_split_is_refused(tiny: tuple[Trained, Dataset], tmp_path: Path) -> None:
    images, labels = colours(6)
    data = from_arrays(images, labels, tmp_path / "shards", splits=["train"] * 6)
    trained = replace(tiny[0], data_digest=data.digest, split_digest=data.split_digest)
    refused((trained, data), tmp_path / "bundle", "validation split is empty")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"head.weight": torch.full((3, 3), torch.nan), "head.bias": torch.zeros(3)}, "logits are not finite"),
        ({"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)}, "no weights of test_resnet.*size mismatch"),
        ({"head.weight": torch.zeros(3, 3)}, "no weights of test_resnet.*Missing key"),
    ],
    ids=["NaN", "another shape", "missing"],
)
def test_weights_that_do_not_fit_are_refused(
    tiny: tuple[Trained, Dataset], tmp_path: Path, weights: dict[str, torch.Tensor], message: str
) -> None:
    trained = trained_as(weights, tiny[1], tmp_path / "misfit")
    refused((trained, tiny[1]), tmp_path / "bundle", message)


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_weights_file_that_is_none_is_refused(tiny: tuple[Trained, Dataset], tmp_path: Path, content: bytes) -> None:
    (tiny[0].folder / "weights.safetensors").write_bytes(content)
    trained = replace(tiny[0], weights_digest=digests.of_bytes(content))
    refused((trained, tiny[1]), tmp_path / "bundle", r"weights\.safetensors: no weights of test_resnet")


def test_weights_that_changed_since_they_were_trained_are_refused(
    tiny: tuple[Trained, Dataset], tmp_path: Path
) -> None:
    save_file({**TINY_WEIGHTS, "head.bias": torch.zeros(3)}, tiny[0].folder / "weights.safetensors")
    refused(tiny, tmp_path / "bundle", r"weights\.safetensors: changed since")


def test_weights_that_are_gone_are_refused(tiny: tuple[Trained, Dataset], tmp_path: Path) -> None:
    (tiny[0].folder / "weights.safetensors").unlink()
    refused(tiny, tmp_path / "bundle", r"weights\.safetensors: no weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:, ::-1], "another label on [1-9]"),
        (lambda p: p + np.float32(2e-3), "another label on 0 of 120 images, probabilities by up to 2.0e-03"),
    ],
    ids=["labels", "probabilities"],
)
def test_an_onnx_model_that_differs_from_torch_is_refused_and_the_old_bundle_stays(
    made: Made,
    tiny: tuple[Trained, Dataset],
    tmp_path: Path,
    change: Any,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(made.bundle.folder, tmp_path / "bundle")
    monkeypatch.setattr(export, "run", lambda model, pixels: change(run(model, pixels)))
    refused(tiny, tmp_path / "bundle", message)
    assert Bundle.load(tmp_path / "bundle").digest == made.bundle.digest


def test_near_ties_do_not_count_as_disagreement() -> None:
    tally = export._Tally()
    by_torch = np.array([[0.5002, 0.4998], [0.7, 0.3]], np.float32)
    by_onnx = np.array([[0.4998, 0.5002], [0.7, 0.3]], np.float32)
    tally.add(by_onnx, by_torch)
    parity = tally.parity()
    assert (parity.images, parity.near_ties, parity.top1_agreement, tally.disagreements) == (2, 1, 1.0, 0)
    assert parity.max_abs_difference == 4e-4


@given(st.floats(1e-30, 1.0))
def test_a_difference_is_never_rounded_down(value: float) -> None:
    rounded = export._round_up(value)
    assert value <= rounded <= 2.2 * value
    assert rounded == float(f"{rounded:.0e}")


class Unexportable(Tiny):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (2 if images.sum() > 0 else 1)


def test_a_backbone_that_torch_cannot_export_is_refused() -> None:
    with pytest.raises(BundleError, match="Unexportable: torch cannot export it") as caught:
        export.to_onnx(export.Servable(Unexportable(), MEAN, STD).eval(), SIZE)
    assert len(str(caught.value).splitlines()) == 1


def test_global_pools_stay_simple() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    proto = export.to_onnx(export.Servable(net, MEAN, STD).eval(), SIZE)
    assert {"ReduceMean", "GlobalAveragePool"} & {node.op_type for node in proto.graph.node}
    assert "Gather" not in {node.op_type for node in proto.graph.node}


def test_golden_inputs_take_the_classes_in_turn(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    validation = data.subset("validation")
    golden = export.golden_inputs(validation, len(LABELS), SIZE)
    assert golden.shape == (export.GOLDEN_PHOTOS + 1, SIZE, SIZE, 3)
    pixels = validation.read(np.arange(len(validation)))
    rows = [int(np.flatnonzero((pixels == photo).all(axis=(1, 2, 3)))[0]) for photo in golden[:-1]]
    assert validation.targets[rows].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert len(set(rows)) == len(rows)
    assert len({golden[-1, ..., channel].tobytes() for channel in range(3)}) == 3


def test_golden_inputs_of_a_split_with_little_in_it(tmp_path: Path) -> None:
    images, labels = colours(2)
    data = from_arrays(images, labels, tmp_path, splits=["train", "validation"])
    assert len(export.golden_inputs(data.subset("validation"), 2, SIZE)) == 2
