import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from assay.config import Policy, Recipe
from assay.data.dataset import from_arrays
from assay.evaluation.evidence import Evidence, EvidenceMeta
from assay.evaluation.label_errors import Suspect
from assay.evaluation.metrics import Estimate, measure
from assay.evaluation.predictions import tabulate
from assay.evaluation.report import (
    MAX_CLASSES,
    MAX_PICTURES,
    Inputs,
    estimate_text,
    finding_text,
    interval_text,
    render,
    setting_text,
)
from assay.gate import Decision, judge
from assay.models.bundle import BundleMeta, Lineage, Parity

RECIPE = Recipe(backbone="resnet10t", augment=({"HorizontalFlip": {"p": 0.5}},))
HISTORY = [{"epoch": 1, "train_loss": 0.9, "val_loss": 0.8, "val_accuracy": 0.7}]
POLICY = Policy.model_validate({"floors": {"accuracy": 0.5}, "champion": {"margin": 0.3}})


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its text, and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def predicted(dataset: Any, wrong: int, sure: float = 0.9) -> pa.Table:
    """Predictions of the test split, of which the first `wrong` are, each less sure than the one before."""
    test, k = dataset.subset("test"), len(dataset.labels)
    given = test.targets.copy()
    given[:wrong] = (given[:wrong] + 1) % k
    p = np.zeros((len(test), k))
    p[np.arange(len(test)), given] = sure - np.arange(len(test)) / len(test) / 10
    p[np.arange(len(test)), (given + 1) % k] = 1 - p.max(axis=1)
    return tabulate(test.table, dataset.labels, p.astype(np.float32), [1.0] * len(test))


def inputs(
    tmp_path: Path,
    labels: tuple[str, ...] = ("crack", "sound"),
    n: int = 40,
    wrong: int = 3,
    size: int = 8,
    champion: bool = True,
    policy: Policy = POLICY,
    **changes: Any,
) -> Inputs:
    """A report of `n` test images, and one training image a class."""
    k = len(labels)
    names = [*labels, *(labels[i % k] for i in range(n))]
    images = np.random.default_rng(0).integers(0, 256, (len(names), size, size, 3), dtype=np.uint8)
    splits = ["train"] * k + ["test"] * n
    uris = changes.pop("uris", [f"{i:04d}.jpg" for i in range(len(names))])
    dataset = from_arrays(images, names, tmp_path / "shards", splits=splits, uris=uris)
    meta = EvidenceMeta(
        use_case="surface_crack",
        candidate_digest="a" * 64,
        champion_digest="b" * 64 if champion else None,
        champion_version="7" if champion else None,
        split_digest=dataset.split_digest,
        data_digest=dataset.digest,
        labels=dataset.labels,
    )
    rival = predicted(dataset, wrong + 1) if champion else None
    evidence = Evidence(tmp_path, predicted(dataset, wrong), rival, meta)
    made = Inputs(
        evidence=evidence,
        verdict=judge(evidence, policy),
        metrics=measure(evidence.candidate, dataset.labels),
        dataset=dataset,
        bundle=bundle_meta(dataset),
        recipe=RECIPE,
        history=HISTORY,
        best_epoch=1,
        champion_metrics=measure(rival, dataset.labels) if rival is not None else None,
    )
    return replace(made, **changes)


def bundle_meta(dataset: Any) -> BundleMeta:
    lineage = Lineage(
        git_commit="c0ffee",
        git_dirty=True,
        data_digest="d",
        split_digest="s",
        config_digest="f" * 64,
        versions={"torch": "2.15.0"},
    )
    return BundleMeta(
        name="surface_crack",
        labels=dataset.labels,
        geometry=dataset.geometry,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        temperature=1.0,
        opset=20,
        parity=Parity(max_abs_difference=1e-6, top1_agreement=1.0, images=3),
        lineage=lineage,
    )


def test_says_what_was_decided_and_why(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    page = Page(render(given))
    assert given.verdict.decision is Decision.PROMOTE
    assert "PROMOTE The candidate has shown everything" in page.text
    assert all(reason in page.text for reason in given.verdict.reasons)
    for fact in ("92.5%", "Against champion 7", "c0ffee", "with changes that are in no commit", "resnet10t", "2.15.0"):
        assert fact in page.text


@pytest.mark.parametrize(
    ("floor", "decision", "words"),
    [
        (0.99, Decision.HOLD, "HOLD The candidate is not good enough"),
        (0.9, Decision.INSUFFICIENT_DATA, "INSUFFICIENT DATA What was measured would do"),
    ],
)
def test_says_what_stands_in_the_way(tmp_path: Path, floor: float, decision: Decision, words: str) -> None:
    given = inputs(tmp_path, policy=Policy.model_validate({"floors": {"accuracy": floor}, "champion": {"margin": 0.3}}))
    assert given.verdict.decision is decision
    assert words in Page(render(given)).text


def test_says_why_evidence_is_refused(tmp_path: Path) -> None:
    given = inputs(tmp_path, champion=False)
    page = Page(render(given))
    assert "REFUSE This cannot be judged" in page.text
    assert "--bootstrap" in page.text
    assert "Against champion" not in page.text


def test_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    page = Page(render(inputs(tmp_path)))
    loaded = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert loaded
    assert all(value is not None and value.startswith(("data:image/jpeg;base64,", "#")) for value in loaded)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "url(" not in render(inputs(tmp_path))
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_anchor_leads_somewhere(tmp_path: Path) -> None:
    page = Page(render(inputs(tmp_path)))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {(a["href"] or "").removeprefix("#") for a in page.all("a")} <= ids


def test_what_comes_from_outside_brings_no_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    uris = [f"{evil}{i:03d}" for i in range(42)]
    given = inputs(tmp_path, labels=(evil, "<img src=x onerror=alert(1)>"), uris=uris, history=[{f"{evil}loss": 0.5}])
    table = given.dataset.manifest
    place = table.schema.get_field_index("fault")
    faulty = table.set_column(place, "fault", pa.array([evil] + [""] * (table.num_rows - 1)))
    page = Page(render(replace(given, dataset=replace(given.dataset, manifest=faulty, source=f"s3://{evil}/x"))))
    assert not page.all("script")
    assert all(set(image) == {"src", "alt", "loading"} for image in page.all("img"))
    assert page.text.count(evil) > 5


def test_the_surest_mistakes_are_shown_first_and_not_all(tmp_path: Path) -> None:
    given = inputs(tmp_path, n=60, wrong=40, champion=False)
    pictures = Page(render(given)).all("img")
    assert len(pictures) == MAX_PICTURES
    html = render(given)
    assert [f"{i:04d}.jpg" for i in range(2, 2 + MAX_PICTURES)] == re.findall(r"<code>(\d{4}\.jpg)</code>", html)


def test_pictures_are_those_of_the_test_images(tmp_path: Path) -> None:
    given = inputs(tmp_path, wrong=1, champion=False)
    (picture,) = Page(render(given)).all("img")
    data = base64.b64decode((picture["src"] or "").partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)), float)
    stored = given.dataset.subset("test").read(np.array([0]))[0]
    assert shown.shape == stored.shape
    assert np.abs(shown.mean() - stored.mean()) < 4


def test_no_mistake_is_said_in_words(tmp_path: Path) -> None:
    page = Page(render(inputs(tmp_path, wrong=0)))
    assert "There is no wrong answer on the test split." in page.text
    assert "No label of the test split is suspected to be wrong." in page.text


def test_suspected_labels_are_shown(tmp_path: Path) -> None:
    suspect = Suspect(3, "0005.jpg", "sound", "crack", 0.013, 0.987)
    page = Page(render(inputs(tmp_path, wrong=0, suspects=(suspect,))))
    assert len(page.all("img")) == 1
    assert "1 test image whose label the model contradicts" in page.text
    assert "labelled sound 1.3% perhaps crack 98.7% 0005.jpg" in page.text


def test_many_classes_are_cut_to_the_worst(tmp_path: Path) -> None:
    labels = tuple(f"class-{i:03d}" for i in range(60))
    page = Page(render(inputs(tmp_path, labels=labels, n=180)))
    assert f"The {MAX_CLASSES} of 60 classes with the lowest recall" in page.text
    assert f"the {MAX_CLASSES} smallest of 60" in page.text
    assert "The most frequent mistakes." in page.text
    assert len(page.all("tr")) < 120


def test_a_class_without_a_test_image_has_a_dash_and_a_reason(tmp_path: Path) -> None:
    page = Page(render(inputs(tmp_path, labels=("crack", "dent", "sound"), n=2, wrong=0)))
    assert "sound 0 – no test image of this class" in page.text


def test_a_split_without_images_is_reported(tmp_path: Path) -> None:
    page = Page(render(inputs(tmp_path, n=0, wrong=0)))
    assert "candidate: there is no image in the test split" in page.text
    assert "there are no images" in page.text


def test_no_history_leaves_the_recipe(tmp_path: Path) -> None:
    page = Page(render(inputs(tmp_path, history=[], best_epoch=None)))
    assert "resnet10t" in page.text
    assert "epoch by" not in page.text


def test_counts_what_was_quarantined_and_what_belongs_together(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    table = given.dataset.manifest
    faults = ["truncated JPEG", "", *[""] * 40]
    groups = ["a", "b", *["same"] * 3, *(f"g{i}" for i in range(37))]
    for name, values in (("fault", faults), ("group", groups)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    page = Page(render(replace(given, dataset=replace(given.dataset, manifest=table))))
    assert "41 usable images" in page.text
    assert "1 image is quarantined." in page.text
    assert "1 group holds 3 images" in page.text
    assert "truncated JPEG 1" in page.text


def test_the_place_of_the_data_on_this_machine_is_not_told(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    dataset = replace(given.dataset, source="/home/somebody/secret/bridges")
    html = render(replace(given, dataset=dataset))
    assert "somebody" not in html
    assert "<code>bridges</code>" in html
    assert str(tmp_path) not in html


def test_the_same_inputs_give_the_same_page(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    assert render(given) == render(given)


def test_a_page_full_of_noisy_pictures_is_small(tmp_path: Path) -> None:
    suspects = tuple(Suspect(i, f"{i}", "crack", "sound", 0.1, 0.9) for i in range(30))
    given = inputs(tmp_path, n=60, wrong=40, size=224, suspects=suspects)
    assert len(render(given)) < 1_500_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (1, "1"),
        (1e-06, "1e-06"),
        ("auto", "auto"),
        ([1], "[1]"),
    ],
)
def test_settings_read_like_words(value: Any, text: str) -> None:
    assert setting_text(value) == text


def test_estimates_read_with_the_decimals_they_deserve() -> None:
    coarse = Estimate(value=0.978, low=0.96, high=0.989, method="", n=1)
    fine = Estimate(value=0.97812, low=0.9775, high=0.9787, method="", n=1)
    none = Estimate(value=None, low=None, high=None, method="", n=0)
    assert (estimate_text(coarse), interval_text(coarse)) == ("97.8%", "96.0 – 98.9%")
    assert (estimate_text(fine), interval_text(fine)) == ("97.81%", "97.75 – 97.87%")
    assert (estimate_text(coarse, share=False), interval_text(coarse, share=False)) == ("0.9780", "0.9600 – 0.9890")
    assert (estimate_text(none), interval_text(none)) == ("–", "")


def test_findings_read_as_percentages_or_points(tmp_path: Path) -> None:
    texts = {f.rule: finding_text(f) for f in inputs(tmp_path).verdict.findings}
    assert texts["floor.accuracy"] == {"measured": "92.5%", "interval": "77.6 – 98.8%", "bound": "≥ 50%"}
    assert texts["non_inferior"]["bound"] == "≥ −30.0"
    assert texts["non_inferior"]["measured"] == "+2.5"
    assert texts["evidence"] == {"measured": "", "interval": "", "bound": ""}
