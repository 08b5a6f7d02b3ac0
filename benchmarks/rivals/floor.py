"""Decode and forward of a bundle's model alone: no HTTP, one process, as many threads as CPUs.

`floor.py BUNDLE IMAGES SECONDS`; the last line of output is JSON figures.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving import model
from serving.settings import Settings


def main() -> None:
    """Print what an image takes."""
    bundle, images, seconds = sys.argv[1:]
    settings = Settings(bundle=bundle, runtime=os.environ.get("ASSAY_SERVE_RUNTIME", "auto"))
    predictor, _ = model.load(settings)
    files = [file.read_bytes() for file in sorted(Path(images).rglob("*.jpg"))]

    def work(end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            predictor.classify(files[done % len(files)])
            done += 1
        return done

    with ThreadPoolExecutor(settings.workers) as pool:
        list(pool.map(work, [time.perf_counter() + 0.5] * settings.workers))
        since, cpu = time.perf_counter(), time.process_time()
        count = sum(pool.map(work, [since + float(seconds)] * settings.workers))
    elapsed, cpu = time.perf_counter() - since, time.process_time() - cpu
    print(json.dumps({"cpu_ms": 1000 * cpu / count, "rate": count / elapsed}))


if __name__ == "__main__":
    main()
