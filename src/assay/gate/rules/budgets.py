"""What the model may cost."""

import numpy as np
from scipy.stats import binom

from assay.config import Budgets
from assay.gate.rules.case import Case
from assay.gate.rules.measured import ROUNDED, unasked
from assay.gate.verdict import Decision, Finding

QUANTILE = 0.95


def budgets(case: Case, asked: Budgets) -> list[Finding]:
    """p95 latency of one image, size of the bundle, and how far ONNX is from torch."""
    findings = []
    if asked.latency_ms is not None:
        findings.append(_latency(case, asked.latency_ms))
    if asked.bundle_mb is not None:
        findings.append(_cost("budget.size", "bundle size", case.meta.bundle_bytes, 1e6, asked.bundle_mb, "MB"))
    if asked.parity is not None:
        findings.append(_cost("budget.parity", "ONNX against torch", case.meta.parity, 1.0, asked.parity, ""))
    return findings


def _latency(case: Case, most: float) -> Finding:
    """By the upper limit of the 95th percentile, an order statistic (David & Nagaraja 2003, section 7.1)."""
    rule, subject = "budget.latency", "p95 latency"
    times = np.sort(np.asarray(case.meta.latency_ms, float))
    if not len(times):
        return unasked(rule, subject, "set `challenges.latency` to a number of images and evaluate again")
    alpha = (1 - case.confidence) / 2
    place = int(binom.ppf(1 - alpha, len(times), QUANTILE))
    value = float(np.quantile(times, QUANTILE, method="inverted_cdf"))
    if place >= len(times):
        needed = int(np.ceil(np.log(alpha) / np.log(QUANTILE)))
        text = f"{subject} {value:.1f} ms of {len(times):,} images shows nothing; {needed:,} would be enough"
        return _plain(rule, subject, value, None, most, Decision.INSUFFICIENT_DATA, text)
    high = float(times[place])
    outcome = Decision.PROMOTE if high <= most else Decision.INSUFFICIENT_DATA if value <= most else Decision.HOLD
    words = {Decision.PROMOTE: "is within", Decision.HOLD: "is over"}.get(outcome, "is not shown to be within")
    text = f"{subject} {value:.1f} ms [up to {high:.1f}] {words} {most:g} ms"
    return _plain(rule, subject, value, high, most, outcome, text)


def _cost(rule: str, subject: str, cost: float | None, unit: float, most: float, name: str) -> Finding:
    if cost is None:
        return unasked(rule, subject, "the evidence does not say; evaluate again")
    value = cost / unit
    outcome = Decision.PROMOTE if value <= most else Decision.HOLD
    words = "is within" if outcome is Decision.PROMOTE else "is over"
    return _plain(rule, subject, value, None, most, outcome, f"{subject} {value:.3g} {name} {words} {most:g} {name}")


def _plain(
    rule: str, subject: str, value: float, high: float | None, most: float, outcome: Decision, text: str
) -> Finding:
    return Finding(
        rule=rule,
        subject=subject,
        measured=round(value, ROUNDED),
        high=None if high is None else round(high, ROUNDED),
        bound=most,
        method="order statistic" if high is not None else "",
        passed=outcome is Decision.PROMOTE,
        outcome=outcome,
        sentence=" ".join(text.split()),
    )
