"""What all clients of a release saw, by Prometheus: the share of their requests that failed, and the latency."""

import math
import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assay.errors import AssayError
from assay.release.endpoint import Http, Unreachable

TIMEOUT_S = 15.0
SHORTEST_WINDOW_S = 60
"""A rate needs a few scrapes; a shorter time than this holds none with common settings."""

# The digest tells the new release's instances from the old ones, and on a cluster the namespace tells production's from
# staging's, which serve the same. Only predictions count: kubelet's and Prometheus's own requests never fail. Without
# any 5xx there is no such series, which is nought; without any request at all there is no result, which the caller
# takes as a failure.
_OURS = "on (instance) group_left () assay_model_info{{{instances}}}"
_ASKED = 'route=~"predict|batch"'
_ERRORS = (
    f'(sum(rate(assay_requests_total{{{{{_ASKED},code=~"5.."}}}}[{{window}}s]) * {_OURS}) or vector(0))'
    f" / sum(rate(assay_requests_total{{{{{_ASKED}}}}}[{{window}}s]) * {_OURS})"
)
_P95 = (
    "1000 * histogram_quantile(0.95, sum by (le)"
    f" (rate(assay_request_seconds_bucket{{{{{_ASKED}}}}}[{{window}}s]) * {_OURS}))"
)


class NoFigures(AssayError):
    """Prometheus does not answer, or has nothing about this release: nothing is known, which is not good news."""


@dataclass(frozen=True)
class Figures:
    """Over the window that was asked for."""

    error_rate: float
    """Share of the requests that got a 5xx."""
    p95_ms: float


def prometheus_url() -> str | None:
    """`$ASSAY_PROMETHEUS_URL`; None if no Prometheus is configured."""
    return os.environ.get("ASSAY_PROMETHEUS_URL") or None


def figures(url: str, bundle_digest: str, seconds: float, namespace: str = "") -> Figures:
    """Ask for the instances that serve a bundle.

    Args:
        url: of Prometheus.
        bundle_digest: served by them.
        seconds: that the window is long, up to now; at least `SHORTEST_WINDOW_S`.
        namespace: of the instances, on a cluster.

    Raises:
        NoFigures: there is no answer, or no prediction of these instances was counted.
    """
    window = max(round(seconds), SHORTEST_WINDOW_S)
    instances = f'digest="{bundle_digest}"' + (f',namespace="{namespace}"' if namespace else "")
    asked = [_ask(url, query.format(instances=instances, window=window)) for query in (_ERRORS, _P95)]
    return Figures(*asked)


def _ask(url: str, query: str) -> float:
    try:
        answer = Http(url).send("GET", f"/api/v1/query?query={urllib.parse.quote(query)}", timeout_s=TIMEOUT_S)
        value = _value(answer.content())
    except (Unreachable, LookupError, TypeError, ValueError) as error:
        raise NoFigures(f"{url}: Prometheus cannot be asked: {error}") from None
    if not math.isfinite(value):
        raise NoFigures(f"{url}: Prometheus knows of no prediction of the new instances; does it scrape them?")
    return value


def _value(content: dict[str, Any]) -> float:
    """The one number of an answer; NaN without one."""
    found: Sequence[dict[str, Any]] = content["data"]["result"]
    return float(found[0]["value"][1]) if found else math.nan
