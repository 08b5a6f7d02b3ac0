"""What of an S3 address can be told wrong before anybody is asked. The rest: tests/integration/test_s3_source.py."""

import pickle

import pytest

from assay.data.sources import open_source
from assay.data.sources.s3 import Stores, parse
from assay.errors import DataError


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a/b", ("bucket", "a/b")),
        ("s3://my.bucket-1/ü #1?%20.jpg", ("my.bucket-1", "ü #1?%20.jpg")),
    ],
)
def test_addresses(uri: str, expected: tuple[str, str]) -> None:
    assert parse(uri) == expected


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3://a", "s3://In Valid/x", "s3://-bucket", "s3://b@host/x"])
def test_wrong_bucket_names(uri: str) -> None:
    with pytest.raises(DataError, match=r"is no bucket name; as in s3://bucket/prefix"):
        open_source(uri).list()


@pytest.mark.parametrize("endpoint", ["localhost:9000", "not a url", "ftp://host", "http://", "http://ho st"])
def test_wrong_endpoints(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(DataError, match=r"^AWS_ENDPOINT_URL: .* is no http:// or https:// address$"):
        open_source("s3://bucket/x").list()


def test_connections_stay_behind_when_pickled() -> None:
    stores = Stores()
    stores._open["bucket"] = object()  # type: ignore[assignment]
    assert pickle.loads(pickle.dumps(stores))._open == {}
