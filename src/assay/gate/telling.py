"""A verdict in words: for a person at a terminal, and as Markdown for a pull request."""

import textwrap
from collections.abc import Mapping

from assay.gate.verdict import Decision, Finding, Verdict
from assay.gate.words import percent

WIDTH = 100

DECIDED = {
    Decision.PROMOTE: "The candidate has shown everything that the policy asks for.",
    Decision.INSUFFICIENT_DATA: "What was measured would do, but so few test images cannot show that it is no luck.",
    Decision.HOLD: "The candidate is not good enough to be promoted.",
    Decision.REFUSE: "This cannot be judged, so nothing is promoted.",
}

MEANING: Mapping[str, str] = {
    "evidence": "Are the predictions whole: every image once, finite probabilities, the same images for both models?",
    "champion": "Is there a champion to compare with, or was the first promotion asked for?",
    "looks": "Every question to a test set spends some of what may go wrong; when all is spent, it takes new images.",
    "floor.accuracy": "The lower end of the interval of accuracy must reach the floor.",
    "floor.balanced_accuracy": "The lower end of the mean recall of all classes must reach the floor.",
    "floor.recall": "The lower end of this class's recall must reach the floor.",
    "operating_point": "Recall of the dangerous class at a threshold that keeps false alarms within their share.",
    "calibration": "The upper end of the mean distance of confidence from how often it is right must be within bounds.",
    "slice": "A part of the test split vetoes only if it is significantly bad, corrected for the number of parts.",
    "corruptions": "What is left of the accuracy when images get worse, over all corruptions and severities.",
    "behaviour.invariance": "Answers that must not change when the image is flipped or turned.",
    "behaviour.contrast": "Confidence that must not rise when the image shows less.",
    "abstention.coverage": "How often an image's own label is in its conformal set.",
    "abstention.answered": "How often the model answers instead of abstaining.",
    "abstention.unfamiliar": "How well confidence tells the data's images from images of something else.",
    "budget.latency": "95th percentile of the time for one image, on the machine that evaluated.",
    "budget.size": "Bytes of the bundle's files.",
    "budget.parity": "Largest difference of a probability between the served ONNX and the trained torch model.",
    "non_inferior": "On the same images, the candidate must not be worse than the champion by more than the margin.",
    "superior": "On the same images, the candidate must be better than the champion.",
}

REMEDY = {
    Decision.INSUFFICIENT_DATA: "label more test images, or ask for less in the policy before you look again",
    Decision.HOLD: "train a better candidate; the report shows its mistakes",
    Decision.REFUSE: "mend what the sentences name, and evaluate again",
}


NOTHING: Mapping[str, str] = {}


def explain(verdict: Verdict) -> str:
    """Everything that a verdict holds, in sentences: what was asked, measured and concluded, and what to do now."""
    lines = [
        f"{verdict.decision}: {DECIDED[verdict.decision]}",
        "",
        f"use case   {verdict.use_case}",
        f"candidate  bundle {verdict.candidate_digest[:12]}",
        f"champion   {_champion(verdict)}",
        f"test set   {verdict.examples:,} images, split {verdict.split_digest[:12]}, look number {verdict.look:,}",
        f"sureness   each interval at {percent(verdict.confidence, 2)}: an end misleads at most "
        f"{percent((1 - verdict.confidence) / 2, 2)} of the time",
        f"verdict    {verdict.digest[:12]}",
        "",
    ]
    for finding in verdict.findings:
        lines += _finding(finding)
    if verdict.decision in REMEDY:
        lines += ["", f"what now   {REMEDY[verdict.decision]}"]
    return "\n".join(lines)


def markdown(verdict: Verdict) -> str:
    """The whole verdict as a Markdown table: for people who may see the test set's numbers."""
    rows = [
        f"| {_mark(finding)} | {_cell(finding.rule)} | {_cell(finding.sentence)} | {_cell(finding.method)} |"
        for finding in verdict.findings
    ]
    champion = f" against champion {_cell(_champion(verdict))}" if verdict.champion_digest else ""
    return "\n".join(
        [
            f"### {verdict.decision}: {_cell(verdict.use_case)}",
            "",
            DECIDED[verdict.decision],
            "",
            "| | rule | finding | method |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Bundle `{verdict.candidate_digest[:12]}`{champion}, {verdict.examples:,} test images, look "
            f"{verdict.look:,}, intervals at {percent(verdict.confidence, 2)}. Verdict `{verdict.digest[:12]}`.",
            "",
        ]
    )


def pull_request(verdict: Verdict, validation: Mapping[str, str] = NOTHING) -> str:
    """Pass or fail of each rule, and metrics of the validation split, as Markdown.

    No number of the test split stands in it: who tunes a model by the test set's numbers wears the test set out faster
    than the looks that are counted.

    Args:
        verdict: what the gate said.
        validation: name to value of what was measured on the validation split, as it shall be read.
    """
    rules = [f"| {_mark(finding)} | {_cell(finding.rule)} | {_cell(finding.subject)} |" for finding in verdict.findings]
    metrics = [f"| {_cell(name)} | {_cell(value)} |" for name, value in validation.items()]
    return "\n".join(
        [
            f"### {verdict.decision}: {_cell(verdict.use_case)}",
            "",
            DECIDED[verdict.decision],
            "",
            "| | rule | of |",
            "|---|---|---|",
            *rules,
            *(["", "| validation | |", "|---|---|", *metrics] if metrics else []),
            "",
            f"Bundle `{verdict.candidate_digest[:12]}`, verdict `{verdict.digest[:12]}`.",
            "",
        ]
    )


def _finding(finding: Finding) -> list[str]:
    told = f"{_mark(finding)} {finding.rule}: {finding.sentence}"
    how = " ".join(filter(None, [MEANING.get(finding.rule, ""), f"({finding.method})" if finding.method else ""]))
    lines = textwrap.wrap(told, WIDTH, subsequent_indent="  ")
    return lines + textwrap.wrap(how, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _champion(verdict: Verdict) -> str:
    if verdict.champion_digest is None:
        return f"version {verdict.champion_version}, which could not be run" if verdict.champion_version else "none"
    return f"{verdict.champion_version} (bundle {verdict.champion_digest[:12]})"


def _mark(finding: Finding) -> str:
    return "✓" if finding.passed else "✗"


_SPECIAL = str.maketrans({char: f"&#{ord(char)};" for char in "|<>&`*_[]()#~\\\r\n@!"})


def _cell(text: str) -> str:
    """Text that Markdown shows as it is: labels and file names come from whoever made the data."""
    return text.translate(_SPECIAL)
