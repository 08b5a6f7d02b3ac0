"""What `assay data` does: everything that training does to data before it trains, for a person to look at."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from assay.config import UseCase
from assay.data.dataset import Dataset
from assay.data.expectations import Checked, check
from assay.data.scan import scan_source
from assay.data.sources import Sample, open_source
from assay.data.splits import split
from assay.errors import DataError
from assay.home import subfolder

EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}


@dataclass(frozen=True)
class Checkup:
    """A scanned data set, held against its expectations, and how it would be split."""

    dataset: Dataset
    checked: Checked
    split_fault: str | None
    """Why it cannot be split; None if it can."""
    page: Path

    @property
    def passed(self) -> bool:
        """Whether training would accept it."""
        return not self.checked.failed and self.split_fault is None

    @property
    def quarantined(self) -> list[tuple[str, str]]:
        """(uri, reason) of every row that is not used."""
        rows = self.dataset.manifest.filter(pc.field("fault") != "")
        return list(zip(rows["uri"].to_pylist(), rows["fault"].to_pylist(), strict=True))

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Usable images by label, then by split (`""` where there is no split)."""
        grouped = self.dataset.usable.group_by(["label", "split"]).aggregate([([], "count_all")])
        counts: dict[str, dict[str, int]] = {}
        for row in sorted(grouped.to_pylist(), key=lambda row: (row["label"], row["split"])):
            counts.setdefault(row["label"], {})[row["split"]] = row["count_all"]
        return counts

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "passed": self.passed,
            "source": self.dataset.source,
            "data_digest": self.dataset.digest,
            "rows": self.dataset.manifest.num_rows,
            "counts": self.counts,
            "quarantined": [{"uri": uri, "reason": reason} for uri, reason in self.quarantined],
            "expectations": [vars(outcome) for outcome in self.checked.outcomes],
            "split_fault": self.split_fault,
            "report": str(self.page),
        }


def check_source(use_case: UseCase) -> Checkup:
    """Scan, validate and split as the training pipeline would; what is wrong is told, not raised.

    Raises:
        DataError: the source cannot be read, or nothing in it can be used.
    """
    dataset = scan_source(use_case.data)
    checked = check(dataset, use_case.expectations)
    page = subfolder("reports", f"data-{use_case.name}") / "data.html"
    page.write_text(checked.html, encoding="utf-8")
    try:
        return Checkup(split(dataset, use_case.split), checked, None, page)
    except DataError as error:
        return Checkup(dataset, checked, str(error), page)


def copy_sample(uri: str, folder: Path, count: int) -> list[Path]:
    """Copy `count` samples that can be decoded into `folder/<label>/`, the labels in turn; gives their paths."""
    from assay.preprocess import Geometry, Unreadable, inspect

    source = open_source(uri)
    written: list[Path] = []
    try:
        for sample in _labels_in_turn(source.list()):
            if len(written) == count:
                break
            try:
                data = source.read(sample)
                kind = inspect(data, Geometry(32, "squash")).format
            except (Unreadable, OSError, DataError):
                continue
            path = folder / sample.label / f"{len(written):04d}{EXTENSIONS[kind]}"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}; give a folder in which can be written") from None
            written.append(path)
    finally:
        source.close()
    return written


def _labels_in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """The first of each label, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for sample in samples:
        ranked.append((seen[sample.label], sample.label, sample.uri, sample))
        seen[sample.label] += 1
    return [sample for *_, sample in sorted(ranked, key=lambda row: row[:3])]
