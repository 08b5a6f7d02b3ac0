"""What all clients saw, by a real Prometheus that scrapes the real service."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay.models.bundle import Bundle
from assay.release.golden import Golden
from assay.release.prometheus import NoFigures, figures
from assay.service import address, free_port, running

from toybundle import toy_bundle

PROMETHEUS = shutil.which("prometheus")
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: assay
  metrics_path: /v1/metrics
  static_configs: [{{targets: ["127.0.0.1:{port}"], labels: {{namespace: walls}}}}]
"""

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian: package prometheus)")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "bundle", size=16)


@pytest.fixture
def service(bundle: Bundle) -> Iterator[int]:
    port = free_port()
    with running(bundle, "7", port):
        yield port


@pytest.fixture
def prometheus(service: int, tmp_path: Path) -> Iterator[str]:
    """Its address."""
    (tmp_path / "prometheus.yml").write_text(CONFIG.format(port=service))
    port = free_port()
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([str(PROMETHEUS), *options], cwd=tmp_path, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def post(port: int, body: bytes) -> None:
    try:
        urllib.request.urlopen(urllib.request.Request(f"{address(port)}/v1/predict", body, method="POST")).close()
    except urllib.error.HTTPError as error:
        error.close()


def scraped(url: str) -> float:
    """Requests of clients that Prometheus knows of."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?query=sum(assay_requests_total)") as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return 0
    return float(found[0]["value"][1]) if found else 0


def until_scraped(url: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while scraped(url) < count:
        assert time.monotonic() < deadline, "Prometheus did not scrape the service"
        time.sleep(0.5)


def test_to_be_asked_for_its_health_is_no_prediction(service: int, prometheus: str, bundle: Bundle) -> None:
    for _ in range(20):
        urllib.request.urlopen(f"{address(service)}/v1/ready").close()
    until_scraped(prometheus, 20)
    with pytest.raises(NoFigures, match="no prediction"):
        figures(prometheus, bundle.digest, 10)


def test_what_clients_saw_is_told_and_silence_is_no_good_news(service: int, prometheus: str, bundle: Bundle) -> None:
    image = Golden.of(bundle).examples[0].image
    post(service, image)
    until_scraped(prometheus, 1)
    for count in range(20):
        post(service, image if count % 2 else b"no image")  # a 4xx is the client's fault
    until_scraped(prometheus, 21)
    for namespace in ("", "walls"):
        found = figures(prometheus, bundle.digest, 10, namespace)
        assert found.error_rate == 0
        assert 0 < found.p95_ms < 10_000
    with pytest.raises(NoFigures, match="knows of no prediction of the new instances"):
        figures(prometheus, bundle.digest, 10, "floors")  # the same bundle serves elsewhere, too
    with pytest.raises(NoFigures, match="knows of no prediction of the new instances"):
        figures(prometheus, "0" * 64, 10)
    with pytest.raises(NoFigures, match="cannot be asked"):
        figures(address(free_port()), bundle.digest, 10)
