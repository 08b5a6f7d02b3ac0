"""Observed predictions in a real object store."""

import json
from typing import TYPE_CHECKING

import numpy as np
import obstore
import pytest

from assay.data.sources.s3 import connect
from serving.observation import Bounds, Observer

if TYPE_CHECKING:
    from team import S3Server


class Served:
    name, version, digest = "colours", "3", "d"
    labels = ("blue", "red")


PIXELS, PROBABILITIES = np.zeros((8, 8, 3), np.uint8), np.array([0, 1], np.float32)


def observe(to: str, count: int) -> dict[str, int]:
    """Observe so many images and close; gives what was counted."""
    counts: dict[str, int] = {}

    def counted(outcome: str, records: int) -> None:
        counts[outcome] = counts.get(outcome, 0) + records

    observer = Observer.open(to, 1, False, Served(), counted, Bounds(close_s=60))
    for number in range(count):
        observer.observe(b"image %d" % number, PIXELS, PROBABILITIES, "red", False)
    observer.close()
    return counts


@pytest.mark.parametrize("prefix", ["seen/by-us", "seen/with-slash/"])
@pytest.mark.usefixtures("s3")
def test_records_lie_below_the_prefix(prefix: str) -> None:
    assert observe(f"s3://images/{prefix}", 20) == {"written": 20}
    store = connect("images")
    (found,) = store.list(f"{prefix.rstrip('/')}").collect()
    lines = bytes(obstore.get(store, found["path"]).bytes()).splitlines()
    assert found["path"].startswith(f"{prefix.rstrip('/')}/20")
    assert len({json.loads(line)["sha256"] for line in lines}) == 20


@pytest.mark.usefixtures("s3")
def test_credentials_that_are_refused_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert observe("s3://images/seen", 1) == {"retried": 1, "dropped": 1}
    assert "the credentials are refused" in caplog.text


def test_an_account_that_may_only_write_is_enough(s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "blind")
    assert observe("s3://images/blind", 1) == {"written": 1}
