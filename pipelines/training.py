"""From labelled images to a judged, registered bundle."""

from zenml import pipeline

from assay.config import UseCase
from assay.crown import champion_of
from assay.data.sources import fingerprint
from steps.evaluate import evaluate
from steps.export import export
from steps.gate import gate
from steps.hooks import close_run
from steps.ingest import ingest
from steps.register import register
from steps.report import report
from steps.split import split
from steps.train import train
from steps.validate import validate


@pipeline(name="training", enable_cache=True, on_failure=close_run)
def training_pipeline(use_case: UseCase, bootstrap: bool = False) -> None:
    """Labelled images in; a judged, registered bundle out.

    Args:
        use_case: the whole of `configs/<name>.yaml`.
        bootstrap: whether the first model may pass although there is no champion to compare it with.
    """
    scanned = ingest(use_case.data, listing=fingerprint(use_case.data.source))
    checked, data_report = validate(scanned, use_case.expectations)
    dataset = split(checked, use_case.split, use_case.name)
    trained = train(dataset, use_case.making)
    candidate = export(trained, dataset, use_case.making)
    champion, crowned = champion_of(use_case.name)  # when the run starts: part of the key of the evidence
    evidence = evaluate(candidate, dataset, use_case.name, use_case.challenges, champion, crowned)
    verdict = gate(evidence, use_case.policy, bootstrap)
    page, metrics = report(use_case, dataset, trained, candidate, evidence, verdict)
    register(use_case, candidate, verdict, metrics, page, data_report)
