"""A verdict in words: everything that was found, and in a pull request no number of the test split."""

import re

from assay.gate import Verdict, judge
from assay.gate.telling import MEANING, explain, markdown, pull_request

from evidences import evidence, policy, table

ASKED = policy(floors={"accuracy": 0.9, "recall": {"crack": 0.99}}, calibration={"max_error": 0.2})


def verdict() -> Verdict:
    return judge(evidence(table(1000, range(37)), table(1000, range(50))), ASKED)


def test_every_finding_is_explained_with_its_method() -> None:
    text = re.sub(r"\s+", " ", explain(verdict()))
    for finding in verdict().findings:
        assert finding.sentence in text
        assert MEANING[finding.rule] in text
        assert finding.method in text
    assert "what now" in text


def test_markdown_holds_every_finding() -> None:
    page = markdown(verdict())
    assert page.count("\n| ✓") + page.count("\n| ✗") == len(verdict().findings)
    assert page.startswith("### HOLD: demo")


def test_a_pull_request_sees_no_number_of_the_test_split() -> None:
    page = pull_request(verdict(), {"accuracy": "97.1%"})
    body = page.replace("97.1%", "").replace(verdict().candidate_digest[:12], "").replace(verdict().digest[:12], "")
    assert "97.1%" in page
    assert re.findall(r"\d", body.replace("&#39;", "").replace("&#95;", "")) == ["3", "3"], "the champion's version"


def test_labels_cannot_become_markup() -> None:
    labels = ("<img src=x>|`*", "sound")
    hostile = judge(evidence(table(100, labels=labels)), policy(floors={"recall": {labels[0]: 0.5}}), bootstrap=True)
    for page in (markdown(hostile), pull_request(hostile, {labels[0]: labels[0]})):
        assert "<img" not in page
        assert all(line.count("|") in (0, 3, 4, 5) for line in page.splitlines())
