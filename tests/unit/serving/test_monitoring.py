"""Alert rules and dashboard: they ask for nothing that the service does not export, and each alert was seen to fire.

promtool (Debian: the package prometheus) runs the rules' own tests where it is installed.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.metrics import Metrics

FOLDER = Path(__file__).parents[3] / "serving" / "monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())
RULE_TESTS = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())

ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
SERIES = [series["series"] for test in RULE_TESTS["tests"] for series in test["input_series"]]

FROM_SCRAPING = {"job", "instance", "namespace"}

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: package prometheus)")


@dataclass(frozen=True)
class Served:
    name: str = "colours"
    version: str = "3"
    digest: str = "d"
    labels: tuple[str, ...] = ("blue", "red")


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Name of each sample that the service exports, to the names of its labels."""
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics(Served())
    metrics.answered("predict", 200, 0.1)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


_WORDS = {"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "group_left", "group_right"}
_STRING, _RANGE = re.compile(r'"(?:\\.|[^"\\])*"'), re.compile(r"\[[^\]]*\]")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\s*\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = re.compile(r"(?<![\w$.])[a-zA-Z_:][\w:]*\b(?!\s*\()")


def metrics_of(expression: str) -> set[str]:
    """Metric names in a PromQL expression."""
    text = _RANGE.sub("", _GROUPING.sub("", _SELECTOR.sub(r"\1", _STRING.sub("", expression))))
    return set(_NAME.findall(text)) - _WORDS


def matched_labels(expression: str) -> Iterator[tuple[str, str]]:
    """Metric and label of each matcher in a PromQL expression."""
    for metric, matchers in _SELECTOR.findall(_STRING.sub("", expression)):
        yield from ((metric, label) for label in re.findall(r"\w+", matchers))


def grouped_labels(expression: str) -> set[str]:
    return {label.strip() for found in _GROUPING.findall(expression) for label in found.split(",")}


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        ('sum by (le) (rate(a_total{b="c{d}"}[5m])) / b:c > 0.01', {"a_total", "b:c"}),
        ("histogram_quantile(0.9, x) and on (y) z offset 1d", {"x", "z"}),
        ("absent(x) or 5e3 * vector(1)", {"x"}),
        ("rate(x{a=~$b}[$__rate_interval])", {"x"}),
    ],
)
def test_metric_names_are_found(expression: str, metrics: set[str]) -> None:
    assert metrics_of(expression) == metrics


ASKED = [*(rule["expr"] for rule in ALERTS), *QUERIES]


@pytest.mark.parametrize("expression", [*ASKED, *SERIES])
def test_only_what_is_exported_is_asked_for(expression: str, exported: dict[str, set[str]]) -> None:
    asked = metrics_of(expression)
    assert asked
    assert asked <= set(exported)
    for metric, label in matched_labels(expression):
        assert label in exported[metric] | FROM_SCRAPING
    assert grouped_labels(expression) <= set.union(*(exported[metric] for metric in asked)) | FROM_SCRAPING


def test_whatever_is_exported_is_shown(exported: dict[str, set[str]]) -> None:
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported}
    asked = set(chain.from_iterable(map(metrics_of, QUERIES)))
    assert families == {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert all(text.strip() for text in rule["annotations"].values())


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names) >= 6


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_is_tested_to_fire_and_not_to(rule: dict[str, Any]) -> None:
    tests = [case for test in RULE_TESTS["tests"] for case in test["promql_expr_test"]]
    mine = [case for case in tests if f'alertname="{rule["alert"]}"' in case["expr"]]
    assert {bool(case["exp_samples"]) for case in mine} == {True, False}


def test_no_rule_test_is_for_an_alert_that_is_gone() -> None:
    asked = re.findall(r'alertname="(\w+)"', json.dumps(RULE_TESTS).replace("\\", ""))
    assert set(asked) == {rule["alert"] for rule in ALERTS}


def test_alerts_that_the_dashboard_names_exist() -> None:
    named = set(re.findall(r"\bAssay[A-Z]\w+", json.dumps(DASHBOARD)))
    assert named <= {rule["alert"] for rule in ALERTS}


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_panels_are_numbered_titled_and_read_the_chosen_source() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_variables_that_are_used_exist(exported: dict[str, set[str]]) -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used == set(variables)
    for name in set(variables) - {"datasource"}:
        asked = variables[name]["definition"]
        metric, label = re.fullmatch(r"label_values\((\w+)(?:\{[^}]*\})?, (\w+)\)", asked).groups()  # type: ignore[union-attr]
        assert metric in exported
        assert label in exported[metric] | FROM_SCRAPING


def promtool(*arguments: str) -> None:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, cwd=FOLDER, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", "rules.yaml")


@needs_promtool
def test_promtool_sees_each_alert_fire() -> None:
    promtool("test", "rules", "rules_test.yaml")


@needs_promtool
def test_promtool_takes_what_the_dashboard_asks(tmp_path: Path) -> None:
    asked = [re.sub(r"\$__rate_interval", "5m", query) for query in QUERIES]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "queries.yaml"))
