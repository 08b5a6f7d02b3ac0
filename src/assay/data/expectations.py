"""What a data set must be, held against its manifest by Great Expectations 1.x, and the page that tells the outcome.

Each bound of a use case becomes one of Great Expectations' own expectations, on one of three tables: the usable images
(a row each), the classes (a row each), and the data set as a whole (one row). Its own renderer writes the details of
the page; around them stand our sentences, the classes and the quarantined rows. The page needs nothing but itself.
"""

import html
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from assay.config import Bounds, Expectations
from assay.data.dataset import Dataset
from assay.errors import ExpectationsFailed

ROWS_SHOWN = 50
"""Of quarantined rows, their reasons and the classes, as many stand in the page."""

_COLUMNS = ("uri", "label", "sha256", "width", "height", "mode", "format", "brightness", "contrast")
_NAMED = 3
_NO_VALUE = -1.0
"""Stands for NaN, which comparisons would pass over: below every bound."""

# Columns of the table of one row.
_IMBALANCE = "largest class over smallest"
_QUARANTINED = "share of rows in quarantine"
_CONFLICTS = "pictures under several labels"
_REPEATED = "share of images with the content of another"

Frame = Any  # a pandas.DataFrame: pandas is heavy, so it is imported where it is used


@dataclass(frozen=True)
class Outcome:
    """What came of one expectation."""

    name: str
    """The bound's name in the use case."""
    stops: bool
    passed: bool
    sentence: str
    """One line: the bound's name, what was observed, what is asked for."""


@dataclass(frozen=True)
class Checked:
    """What came of all expectations, those that stop first, and the page about it."""

    outcomes: tuple[Outcome, ...]
    html: str

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Those that stop the run and do not hold."""
        return tuple(outcome for outcome in self.outcomes if outcome.stops and not outcome.passed)

    @property
    def warnings(self) -> tuple[Outcome, ...]:
        """Those that only warn and do not hold."""
        return tuple(outcome for outcome in self.outcomes if not outcome.stops and not outcome.passed)


def check(dataset: Dataset, expectations: Expectations) -> Checked:
    """Hold the manifest of `dataset` against `expectations`. What does not hold is told, not raised: see `require`.

    Great Expectations runs in memory: no files, no network, no output.
    """
    facts = _Facts(dataset)
    asked = [*_asked(expectations.stop, stops=True), *_asked(expectations.warn, stops=False)]
    with _quiet():
        results = _validated(asked, facts)
        outcomes = tuple(_outcome(one, results[place], facts) for place, one in enumerate(asked))
        page = _page(facts, outcomes, [results[place] for place in range(len(asked))])
    return Checked(outcomes, page)


def require(checked: Checked) -> None:
    """Raise unless every expectation that stops the run holds.

    Raises:
        ExpectationsFailed: with the sentences of all that do not hold, in one line.
    """
    if checked.failed:
        count = len(checked.failed)
        sentences = "; ".join(outcome.sentence for outcome in checked.failed)
        raise ExpectationsFailed(f"{count} expectation{' does' if count == 1 else 's do'} not hold: {sentences}")


class _Facts:
    """The three tables that expectations are held against."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.rows = dataset.manifest.num_rows
        self.used = dataset.manifest.select([*_COLUMNS, "fault"]).filter(pc.field("fault") == "")
        self.usable = self.used.num_rows

    @cached_property
    def images(self) -> Frame:
        """A row for each usable image, in the order of the manifest."""
        import pandas as pd

        usable = self.used
        width, height = usable["width"].to_numpy(), usable["height"].to_numpy()
        shorter, longer = np.minimum(width, height), np.maximum(width, height)
        return pd.DataFrame(
            {
                "shorter side": shorter,
                "longer side": longer,
                "aspect ratio": np.where(shorter > 0, longer / np.maximum(shorter, 1), np.inf),
                "mode": pc.dictionary_encode(usable["mode"]).to_pandas(),
                "format": pc.dictionary_encode(usable["format"]).to_pandas(),
                "brightness": np.nan_to_num(usable["brightness"].to_numpy().astype(float), nan=_NO_VALUE),
                "contrast": np.nan_to_num(usable["contrast"].to_numpy().astype(float), nan=_NO_VALUE),
            }
        )

    @cached_property
    def classes(self) -> Frame:
        """A row for each class that any row has, by name."""
        import pandas as pd

        labels = list(self.dataset.labels)
        counts = pd.DataFrame({"class": labels, "usable images": _counts(self.used["label"], labels)})
        counts["quarantined"] = _counts(self.dataset.manifest["label"], labels) - counts["usable images"]
        return counts

    @cached_property
    def whole(self) -> Frame:
        """One row: the data set."""
        import pandas as pd

        counts = self.classes["usable images"]
        smallest, largest = counts.min() if len(counts) else 0, counts.max() if len(counts) else 0
        distinct = pc.count_distinct(self.used["sha256"]).as_py()
        return pd.DataFrame(
            {
                "classes": [int((counts > 0).sum())],
                _IMBALANCE: [largest / smallest if smallest else np.inf],
                _QUARANTINED: [(self.rows - self.usable) / self.rows if self.rows else 1.0],
                _CONFLICTS: [len(self.conflicts)],
                _REPEATED: [(self.usable - distinct) / self.usable if self.usable else 0.0],
            }
        )

    @cached_property
    def conflicts(self) -> list[str]:
        """The contents that stand under several labels, quarantined ones (which the scan makes of them) included."""
        rows = self.dataset.manifest.filter(pc.field("width") > 0).select(["sha256", "label"])
        counts = rows.group_by("sha256").aggregate([("label", "count_distinct")])
        return sorted(counts.filter(pc.field("label_count_distinct") > 1)["sha256"].to_pylist())

    def uri(self, image: int) -> str:
        """The name of a usable image, quoted: names may hold anything."""
        return repr(self.used["uri"][image].as_py())


Told = Callable[[_Facts, Any], str]


class _Rule(NamedTuple):
    """How a bound is checked and told."""

    table: str
    column: str
    kind: str
    meaning: str
    told: Told


class _Asked(NamedTuple):
    """One expectation of a use case."""

    name: str
    stops: bool
    bound: Any
    rule: _Rule


def _labels(facts: _Facts, bound: Sequence[str]) -> str:
    there = set(facts.classes["class"])
    unknown, missing = sorted(there - set(bound)), sorted(set(bound) - there)
    found = [f"{_few(unknown)} not known"] * bool(unknown) + [f"{_few(missing)} missing"] * bool(missing)
    return f"{' and '.join(found) or 'all are known and none is missing'}; asked for: {_few(sorted(bound), 10)}"


def _min_classes(facts: _Facts, bound: int) -> str:
    return f"{facts.whole['classes'][0]:,} with usable images, at least {bound:,} are asked for"


def _max_classes(facts: _Facts, bound: int) -> str:
    return f"{facts.whole['classes'][0]:,} with usable images, at most {bound:,} are allowed"


def _min_per_class(facts: _Facts, bound: int) -> str:
    if facts.classes.empty:
        return f"there is no class, at least {bound:,} usable images of each are asked for"
    smallest = facts.classes.loc[facts.classes["usable images"].idxmin()]
    count = int(smallest["usable images"])
    others = int((facts.classes["usable images"] < bound).sum()) - 1
    more = f"; {others:,} more class{'es have' if others > 1 else ' has'} too few" if others > 0 else ""
    has = f"class {smallest['class']!r} has {count:,} usable image{'s' * (count != 1)}"
    return f"{has}, at least {bound:,} are asked for{more}"


def _max_imbalance(facts: _Facts, bound: float) -> str:
    if facts.classes.empty:
        return "there is no class"
    counts = facts.classes.set_index("class")["usable images"]
    largest, smallest = counts.idxmax(), counts.idxmin()
    pair = f"class {largest!r} has {counts[largest]:,} usable images, class {smallest!r} {counts[smallest]:,}"
    return f"{pair}: {facts.whole[_IMBALANCE][0]:.3g} times, at most {bound:g} are allowed"


def _max_quarantined(facts: _Facts, bound: float) -> str:
    bad = facts.rows - facts.usable
    share = facts.whole[_QUARANTINED][0]
    return f"{bad:,} of {facts.rows:,} rows ({_percent(share)}) are quarantined, at most {_percent(bound)} are allowed"


def _max_label_conflicts(facts: _Facts, bound: int) -> str:
    count = len(facts.conflicts)
    first = facts.dataset.manifest.filter(pc.field("sha256") == facts.conflicts[0])["uri"].to_pylist() if count else []
    such = f" ({_few(first)})" if first else ""
    return f"{count:,} picture{'s' * (count != 1)} under several labels{such}, at most {bound:,} are allowed"


def _max_duplicates(facts: _Facts, bound: float) -> str:
    share = facts.whole[_REPEATED][0]
    count = round(share * facts.usable)
    told = f"{count:,} of {facts.usable:,} usable images ({_percent(share)}) repeat the content of another"
    return f"{told}, at most {_percent(bound)} are allowed"


def _lowest(column: str, unit: str, facts: _Facts, bound: float) -> str:
    values = facts.images[column]
    image = int(values.idxmin())
    below = int((values < bound).sum())
    count = f"; {below:,} image{'s have' if below != 1 else ' has'} less" if below else ""
    least = f"the lowest {column} is {_number(values[image])}{unit} ({facts.uri(image)})"
    return f"{least}, at least {_number(bound)}{unit} is asked for{count}"


def _highest(column: str, unit: str, facts: _Facts, bound: float) -> str:
    values = facts.images[column]
    image = int(values.idxmax())
    above = int((values > bound).sum())
    count = f"; {above:,} image{'s have' if above != 1 else ' has'} more" if above else ""
    most = f"the highest {column} is {_number(values[image])}{unit} ({facts.uri(image)})"
    return f"{most}, at most {_number(bound)}{unit} is allowed{count}"


def _between(column: str, facts: _Facts, bound: tuple[float, float]) -> str:
    values = facts.images[column]
    outside = np.flatnonzero((values < bound[0]) | (values > bound[1]))
    such = f", such as {facts.uri(int(outside[0]))} with {_number(values[outside[0]])}" if len(outside) else ""
    many = f"{len(outside):,} of {facts.usable:,} usable images are outside of {_number(bound[0])} to"
    return f"{many} {_number(bound[1])}{such}"


def _one_of(column: str, facts: _Facts, bound: Sequence[str]) -> str:
    strange = np.flatnonzero(~facts.images[column].isin(bound))
    values = sorted(set(facts.images[column].iloc[strange]))
    such = f" ({_few(values)}, as in {facts.uri(int(strange[0]))})" if len(strange) else ""
    return (
        f"{len(strange):,} of {facts.usable:,} usable images have a {column} other than {_few(sorted(bound), 10)}{such}"
    )


_RULES = {
    "labels": _Rule("classes", "class", "exactly", "the labels are {}", _labels),
    "min_classes": _Rule("whole", "classes", "at least", "at least {} classes with usable images", _min_classes),
    "max_classes": _Rule("whole", "classes", "at most", "at most {} classes with usable images", _max_classes),
    "min_per_class": _Rule(
        "classes", "usable images", "at least", "at least {} usable images of each class", _min_per_class
    ),
    "max_imbalance": _Rule(
        "whole", _IMBALANCE, "at most", "at most {} times the smallest class's images in the largest", _max_imbalance
    ),
    "max_quarantined": _Rule(
        "whole", _QUARANTINED, "at most", "at most a share of {} of the rows in quarantine", _max_quarantined
    ),
    "max_label_conflicts": _Rule(
        "whole", _CONFLICTS, "at most", "at most {} pictures under several labels", _max_label_conflicts
    ),
    "max_duplicates": _Rule(
        "whole", _REPEATED, "at most", "at most a share of {} with the content of another image", _max_duplicates
    ),
    "min_size": _Rule(
        "images", "shorter side", "at least", "at least {} px each way", partial(_lowest, "shorter side", " px")
    ),
    "max_size": _Rule(
        "images", "longer side", "at most", "at most {} px each way", partial(_highest, "longer side", " px")
    ),
    "max_aspect_ratio": _Rule(
        "images", "aspect ratio", "at most", "at most {} times as long as short", partial(_highest, "aspect ratio", "")
    ),
    "modes": _Rule("images", "mode", "one of", "only images of mode {}", partial(_one_of, "mode")),
    "formats": _Rule("images", "format", "one of", "only images of format {}", partial(_one_of, "format")),
    "brightness": _Rule(
        "images", "brightness", "between", "a mean luminance of {} in each image", partial(_between, "brightness")
    ),
    "min_contrast": _Rule(
        "images", "contrast", "at least", "a deviation of luminance of {} or more", partial(_lowest, "contrast", "")
    ),
}

_KINDS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "at least": ("ExpectColumnMinToBeBetween", lambda bound: {"min_value": bound}),
    "at most": ("ExpectColumnMaxToBeBetween", lambda bound: {"max_value": bound}),
    "between": ("ExpectColumnValuesToBeBetween", lambda bound: {"min_value": bound[0], "max_value": bound[1]}),
    "one of": ("ExpectColumnDistinctValuesToBeInSet", lambda bound: {"value_set": list(bound)}),
    "exactly": ("ExpectColumnDistinctValuesToEqualSet", lambda bound: {"value_set": list(bound)}),
}


def _asked(bounds: Bounds, stops: bool) -> Iterator[_Asked]:
    for name in Bounds.model_fields:
        if (bound := getattr(bounds, name)) is not None:
            yield _Asked(name, stops, bound, _RULES[name])


def _validated(asked: Sequence[_Asked], facts: _Facts) -> dict[int, Any]:
    """Great Expectations' result for each place in `asked`."""
    context = _context()
    results: dict[int, Any] = {}
    for table in ("whole", "classes", "images"):
        expectations = [_expectation(one, place) for place, one in enumerate(asked) if one.rule.table == table]
        if expectations:
            for result in _suite_results(context, table, getattr(facts, table), expectations):
                results[result.expectation_config.meta["place"]] = result
    return results


def _expectation(one: _Asked, place: int) -> Any:
    from great_expectations import expectations as core

    name, arguments = _KINDS[one.rule.kind]
    severity = "critical" if one.stops else "warning"
    # The renderer takes a description for HTML, and labels may hold anything.
    description = html.escape(f"{one.name} ({'stops the run' if one.stops else 'warns'}): {_meaning(one)}")
    expectation = getattr(core, name)
    meta = {"place": place, "rule": one.name}
    return expectation(
        column=one.rule.column, severity=severity, meta=meta, description=description, **arguments(one.bound)
    )


def _meaning(one: _Asked) -> str:
    if one.rule.kind == "between":
        return one.rule.meaning.format(" to ".join(_number(value) for value in one.bound))
    return one.rule.meaning.format(_few(one.bound if isinstance(one.bound, tuple) else (one.bound,), 10))


def _suite_results(context: Any, table: str, frame: Frame, expectations: list[Any]) -> list[Any]:
    import great_expectations as gx

    asset = context.data_sources.add_pandas(table).add_dataframe_asset(table)
    batch = asset.add_batch_definition_whole_dataframe(table).get_batch(batch_parameters={"dataframe": frame})
    results: list[Any] = batch.validate(gx.ExpectationSuite(name=table, expectations=expectations)).results
    # Great Expectations keeps the last context for itself, and the context its tables.
    context.data_sources.delete(table)
    return results


def _context() -> Any:
    """A context in memory: no temporary folder for a site, no progress bars, and no analytics, which some releases post
    unless both the environment and the configuration say no."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types import base

    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(),
        progress_bars=base.ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx.get_context(mode="ephemeral", project_config=config)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines and no warnings of Great Expectations and what it imports."""
    logger, nowhere = logging.getLogger("great_expectations"), logging.NullHandler()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(nowhere)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(nowhere)
        logger.propagate = propagate


def _outcome(one: _Asked, result: Any, facts: _Facts) -> Outcome:
    if one.rule.table == "images" and not facts.usable:
        return Outcome(one.name, one.stops, False, f"{one.name}: there is no usable image")
    if result.exception_info.get("raised_exception", True):
        return Outcome(one.name, one.stops, False, f"{one.name}: could not be checked: {result.exception_info}")
    return Outcome(one.name, one.stops, bool(result.success), f"{one.name}: {one.rule.told(facts, one.bound)}")


def _page(facts: _Facts, outcomes: Sequence[Outcome], results: Sequence[Any]) -> str:
    """The page: our template around the sections that Great Expectations renders."""
    from great_expectations.render.view import DefaultJinjaPageView

    quarantined = facts.dataset.manifest.filter(pc.field("fault") != "")
    reasons = quarantined.group_by("fault").aggregate([([], "count_all")])
    reasons = reasons.sort_by([("count_all", "descending"), ("fault", "ascending")])
    view = DefaultJinjaPageView(custom_views_directory=str(Path(__file__).parent))
    page: str = view.env.get_template("expectations.html").render(
        source=facts.dataset.source,
        rows=facts.rows,
        usable=facts.usable,
        outcomes=outcomes,
        classes=facts.classes.nlargest(ROWS_SHOWN, "usable images").to_dict("records"),
        class_count=len(facts.classes),
        reasons=reasons.slice(0, ROWS_SHOWN).to_pylist(),
        reason_count=reasons.num_rows,
        quarantined=quarantined.slice(0, ROWS_SHOWN).select(["uri", "label", "fault"]).to_pylist(),
        sections=_sections(results),
    )
    return page


def _sections(results: Sequence[Any]) -> list[dict[str, Any]]:
    """Great Expectations' sections, one for each column, without its overview (which links to a site of pages)."""
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer

    for result in results:
        result.result = _for_templates(result.result)
    passed = sum(bool(result.success) for result in results)
    statistics = {"evaluated_expectations": len(results), "successful_expectations": passed}
    whole = ExpectationSuiteValidationResult(
        success=passed == len(results), results=list(results), suite_name="data", statistics=statistics, meta={}
    )
    document: dict[str, Any] = ValidationResultsPageRenderer().render(whole).to_json_dict()
    return list(document["sections"][1:])


def _for_templates(value: Any) -> Any:
    """A result as Great Expectations' templates can take it: they put strings into HTML as they are (and labels may
    hold anything), and have no text for numpy's numbers."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {key: _for_templates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_for_templates(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _counts(column: Any, labels: list[str]) -> "np.ndarray[Any, Any]":
    """How often each of `labels` stands in `column`: int64 [labels]."""
    counted = pc.value_counts(column)
    of = dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    return np.array([of.get(label, 0) for label in labels], np.int64)


def _few(values: Sequence[Any], most: int = _NAMED) -> str:
    """The first of `values`, in one line."""
    shown = ", ".join(repr(value) if isinstance(value, str) else _number(value) for value in values[:most])
    return f"{shown} and {len(values) - most:,} more" if len(values) > most else shown


def _number(value: float) -> str:
    return "no number" if value == _NO_VALUE else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
