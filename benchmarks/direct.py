"""The training pipeline's work without the pipeline: the same library calls in one process, no ZenML, no MLflow."""

import json
import time
from pathlib import Path

from assay.config import load_use_case
from assay.data.expectations import check, require
from assay.data.scan import scan
from assay.data.sources import open_source
from assay.data.splits import split
from assay.evaluation.evidence import gather
from assay.evaluation.label_errors import suspects
from assay.evaluation.metrics import measure
from assay.evaluation.report import Inputs, render
from assay.gate import judge
from assay.lineage import collect
from assay.models.export import export
from assay.training import train

from harness import arguments


def main() -> None:
    """Print the seconds of it all, imports left out."""
    options = arguments(__doc__, config="configs/demo.yaml", work="")
    work = Path(options.work)
    use_case = load_use_case(Path(options.config))
    start = time.perf_counter()
    scanned = scan(open_source(use_case.data.source), use_case.data, work / "shards")
    require(check(scanned, use_case.expectations))
    dataset = split(scanned, use_case.split)
    trained = train(dataset, use_case.recipe, work / "training")
    bundle = export(trained, dataset, work / "bundle", collect(use_case, dataset), name=use_case.name)
    evidence = gather(bundle, None, dataset, use_case.name, work / "evidence")
    verdict = judge(evidence, use_case.policy, bootstrap=True)
    labels = evidence.meta.labels
    page = render(
        Inputs(
            evidence=evidence,
            verdict=verdict,
            metrics=measure(evidence.candidate, labels),
            dataset=dataset,
            bundle=bundle.meta,
            recipe=trained.recipe,
            history=trained.history,
            best_epoch=trained.best_epoch,
            suspects=suspects(evidence.candidate, labels),
        )
    )
    (work / "report.html").write_text(page, encoding="utf-8")
    print(json.dumps({"work_s": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
