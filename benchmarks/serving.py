"""The service against services as people write them, and against decode and forward alone: in turn, on one bundle.

Load comes from a process of its own. The CPU time of a request (of the service's whole tree of processes) is the figure
to trust; on few CPUs the throughput also pays for the clients. `--soak MINUTES` instead: full load on the service, its
memory over time, and whether it loses a request when it is told to end.
"""

import http.client
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from safetensors.torch import save

from assay.models import backbones
from assay.models.bundle import Bundle, BundleMeta, Lineage, Parity
from assay.models.export import OPSET, Servable, to_onnx
from assay.models.predictor import run, session
from assay.preprocess import Geometry, decode
from assay.processes import stop
from assay.service import HOST, free_port, running

from harness import Figures, arguments, in_process, in_turn, print_figures, print_ratio, scratch, write_images

RIVALS = Path(__file__).parent / "rivals"
SIZE = 224
CLIENTS = (1, 8, 32)
Service = AbstractContextManager[subprocess.Popen[bytes]]
MEAN, STD = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
WARM_UP_S = 1.0
START_S = 180.0


@dataclass(frozen=True)
class Rival:
    """A service that others would write: how it is started in `RIVALS`, and asked."""

    command: tuple[str, ...]
    path: str
    ready: str


THEIRS = {
    "bentoml_torch": Rival(
        ("bentoml", "serve", "bento_torch:Classifier", "--host", HOST, "--port"), "/classify", "/readyz"
    ),
    "fastapi_torch": Rival(("uvicorn", "fastapi_torch:app", "--host", HOST, "--port"), "/predict", "/openapi.json"),
    "fastapi_onnx": Rival(("uvicorn", "fastapi_onnx:app", "--host", HOST, "--port"), "/predict", "/openapi.json"),
}


def random_bundle(folder: Path, backbone: str, images: Path) -> Bundle:
    """A bundle of random weights, made as training makes one."""
    torch.manual_seed(0)
    servable = Servable(backbones.build(backbone, 2, image_size=SIZE), MEAN, STD).eval()
    geometry = Geometry(SIZE)
    pictures = [decode(file.read_bytes(), geometry) for file in sorted(images.rglob("*.jpg"))[:8]]
    golden = np.stack(pictures)
    with torch.inference_mode():
        servable.temperature = max(1.0, float(servable.logits(torch.from_numpy(golden)).abs().mean()))
    proto = to_onnx(servable, SIZE).SerializeToString()
    meta = BundleMeta(
        name="benchmark",
        labels=("crack", "intact"),
        geometry=geometry,
        mean=MEAN,
        std=STD,
        temperature=servable.temperature,
        opset=OPSET,
        parity=Parity(max_abs_difference=0, top1_agreement=1, images=1),
        lineage=Lineage(
            git_commit="none",
            git_dirty=False,
            data_digest="none",
            split_digest="none",
            config_digest="none",
            versions={},
        ),
    )
    files = {
        "model.onnx": proto,
        "weights.safetensors": save(servable.backbone.state_dict()),
        "card.md": b"",
        "golden_inputs.npy": _npy(golden),
        "golden_outputs.npy": _npy(run(session(proto, threads=1), golden)),
    }
    return Bundle.create(folder, meta, files)


def measured(
    start: Callable[[int], Service], path: str, field: str, images: Path, seconds: float, _: int
) -> dict[str, float]:
    """Start a service, wait until it is ready, and load it with each number of clients."""
    port, since = free_port(), time.perf_counter()
    with start(port) as process:
        family = psutil.Process(process.pid)
        figures = {"ready_s": time.perf_counter() - since, "ready_cpu_s": cpu_seconds(family)}
        _load(port, path, field, images, CLIENTS[-1], WARM_UP_S)
        for clients in CLIENTS:
            before = cpu_seconds(family)
            seen = _load(port, path, field, images, clients, seconds)
            if seen["failed"] or seen["lost"] or not seen["ok"]:
                raise SystemExit(f"{path}: {seen}")
            figures |= {f"cpu_ms_c{clients}": 1000 * (cpu_seconds(family) - before) / seen["ok"]}
            figures |= {f"{name}_c{clients}": seen[name] for name in ("rate", "p50_ms", "p95_ms", "p99_ms")}
        figures[f"p99_by_p50_c{CLIENTS[-1]}"] = seen["p99_ms"] / seen["p50_ms"]
        return figures | {"worker_mb": worker_bytes(family) / 1e6}


def cpu_seconds(family: psutil.Process) -> float:
    """Of a process and all that descend from it, those that have ended included."""
    total = 0.0
    for process in (family, *family.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def worker_bytes(family: psutil.Process) -> int:
    """Resident memory of the largest process: the one that has the model."""
    return max(process.memory_info().rss for process in (family, *family.children(recursive=True)))


def ours(bundle: Bundle, port: int) -> Service:
    """As `assay serve` starts it."""
    return running(bundle, "1", port)


@contextmanager
def theirs(rival: Rival, backbone: str, bundle: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A rival, ready; it ends with the block."""
    own = {"RIVAL_BACKBONE": backbone, "RIVAL_BUNDLE": str(bundle), "RIVAL_SIZE": str(SIZE)}
    own["BENTOML_HOME"] = str(bundle.parent / "bentoml")
    log = (bundle.parent / f"{port}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", *rival.command, str(port)],
        cwd=RIVALS, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_until_ready(process, port, rival.ready, Path(log.name))
        yield process
    finally:
        stop(process, 30)
        log.close()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise SystemExit(f"not ready:\n{log.read_text(errors='replace')[-3000:]}")


def _load(port: int, path: str, field: str, images: Path, clients: int, seconds: float) -> Figures:
    asked = ["--port", str(port), "--path", path, "--field", field, "--images", str(images)]
    return in_process("load.py", [*asked, "--clients", str(clients), "--seconds", str(seconds)])


def floor(bundle: Path, images: Path, seconds: float, _: int) -> dict[str, float]:
    """Decode and forward alone, with the names that the services' figures have."""
    alone = in_process("rivals/floor.py", [str(bundle), str(images), str(seconds)])
    return {f"{name}_c{clients}": alone[name] for name in ("cpu_ms", "rate") for clients in CLIENTS}


def compare(backbone: str, folder: Path, images: Path, against: list[str], rounds: int, seconds: float) -> None:
    """Print everybody's figures and the ratios to the rivals that are named."""
    bundle = random_bundle(folder / "bundle", backbone, images)
    contestants: dict[str, Callable[[int], Figures]] = {
        name: partial(measured, partial(theirs, rival, backbone, bundle.folder), rival.path, "image", images, seconds)
        for name, rival in THEIRS.items()
        if name in against
    }
    contestants["floor"] = partial(floor, bundle.folder, images, seconds)
    contestants["assay"] = partial(measured, partial(ours, bundle), "/v1/predict", "", images, seconds)
    results = in_turn(contestants, rounds)
    print_figures(results)
    others = [name for name in contestants if name != "assay"]
    for clients in CLIENTS:
        for name in others:
            print_ratio(results, "assay", name, f"cpu_ms_c{clients}")
    for clients in CLIENTS:
        for name in others:
            print_ratio(results, name, "assay", f"rate_c{clients}")


def soak(backbone: str, folder: Path, images: Path, minutes: float) -> None:
    """Full load: memory over time, answers by kind, and the end under load."""
    bundle, port = random_bundle(folder / "bundle", backbone, images), free_port()
    with running(bundle, "1", port) as process:
        family, end = psutil.Process(process.pid), time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            print(_line(_load(port, "/v1/predict", "", images, CLIENTS[-1], min(15, 15 * minutes)), family), flush=True)
        signalled: dict[str, float] = {}
        told = signal.signal(signal.SIGALRM, lambda *_: process.send_signal(signal.SIGTERM))
        signal.alarm(5)
        signalled |= _load(port, "/v1/predict", "", images, CLIENTS[-1], 60)
        signal.signal(signal.SIGALRM, told)
        print("SIGTERM after 5 s of load:", "  ".join(f"{name} {value:.0f}" for name, value in signalled.items()))
        print(f"ended with code {process.wait(60)}")


def _line(seen: Figures, family: psutil.Process) -> str:
    told = f"{seen['rate']:7.1f}/s  p50 {seen['p50_ms']:.0f} ms  p99 {seen['p99_ms']:.0f} ms"
    counts = "  ".join(f"{name} {seen[name]:.0f}" for name in ("ok", "busy", "failed", "lost"))
    return f"{worker_bytes(family) / 1e6:6.1f} MB  {told}  {counts}"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def main() -> None:
    """Compare, or soak."""
    options = arguments(
        __doc__,
        backbone="mobilenetv4_conv_small",
        against=",".join(THEIRS),
        rounds=5,
        seconds=5.0,
        images=64,
        side=227,
        soak=0.0,
    )
    with scratch() as folder:
        images = write_images(folder / "images", options.images, options.side)
        if options.soak:
            soak(options.backbone, folder, images, options.soak)
        else:
            compare(options.backbone, folder, images, options.against.split(","), options.rounds, options.seconds)


if __name__ == "__main__":
    main()
