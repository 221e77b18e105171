"""How a bundle ranks attributes, calibrated on the pairs of an audit of the valid split: ``whymatch calibrate``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.ranking.catalogue_embeddings import require_attributes
from export.ranking.evidence import AuditMaps, RankingDataset, collect
from transforms import storage
from transforms.core.attributes.ranking import Ranking, Scales
from transforms.core.errors import UsageError
from transforms.core.messages import Echo
from transforms.core.metrics.removal import Oracle, Removal
from transforms.core.records import content_id
from transforms.core.statistics import calibration
from transforms.core.statistics.calibration import KINDS, Kind, PhiSearch, Point
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.models import Serving

FOLDS = 5
"""Parts of the queries of a calibration, each ranked by what was fitted to the others."""


@dataclass(frozen=True)
class Calibration:
    """A bundle's new ranking: ``kind`` of its scales, ``scales`` and ``phi``, and how all of them were found.

    ``searches`` has every kind that was tried with the scales and the search on all pairs: their figures are those of
    the pairs that they were fitted to. ``held_out`` has the figures of each kind on queries that it was not fitted to,
    with the phi of all pairs. ``alone`` is the confidence without anything else, and ``before`` the ranking that the
    bundle had; neither was fitted here.
    """

    kind: Kind
    scales: Scales
    phi: tuple[float, float, float]
    searches: Mapping[Kind, tuple[Scales, PhiSearch]]
    held_out: Mapping[Kind, Point]
    alone: Point
    before: Point


def calibrate(dataset: RankingDataset, kinds: Sequence[Kind] = KINDS, before: Ranking | None = None) -> Calibration:
    """The scales and the phi that score best on ``dataset``: by ``removal``, then ``top1``, then order of ``kinds``.

    What is compared are figures by cross-fitting: the queries are dealt to ``FOLDS`` folds by a hash of their ids, and
    the pairs of each are ranked by what was fitted to the others. Figures of the fitted pairs themselves would favour
    ``isotonic``, which has the most to fit. The kind that is chosen is then fitted to all pairs.

    ``before`` is the ranking to compare with. UsageError where attribute removal cannot judge pairs of two queries.
    """
    oracle, evidence = Oracle(dataset.drops), dataset.evidence
    if not oracle.judged.any():
        raise UsageError(
            f"none of the {len(dataset.pairs):,} pairs can be judged: of {oracle.unscored:,} no attribute could be "
            f"removed, of {oracle.not_above_zero:,} none makes the similarity drop. Take more pairs, a larger "
            "catalogue, or --max-distance 1."
        )
    folds = _folds(dataset.queries, oracle.judged)
    searches: dict[Kind, tuple[Scales, PhiSearch]] = {}
    held_out: dict[Kind, Point] = {}
    for kind in kinds:
        scales = calibration.fit_scales(kind, evidence, oracle)
        searches[kind] = scales, calibration.search_phi(evidence, oracle, scales)
        judgement = calibration.held_out(kind, evidence, oracle, folds)
        held_out[kind] = Point.of(searches[kind][1].best.phi, judgement)
    best = max(kinds, key=lambda kind: (held_out[kind].removal, held_out[kind].top1))
    before = before or Ranking()
    old = before.scores(dataset.confidence, dataset.match)
    return Calibration(
        kind=best,
        scales=searches[best][0],
        phi=searches[best][1].best.phi,
        searches=searches,
        held_out=held_out,
        alone=Point.of((1.0, 0.0, 0.0), oracle.judge(dataset.confidence)),
        before=Point.of(before.phi, oracle.judge(old)),
    )


def _folds(queries: Sequence[str], judged: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The fold of each pair [P]: queries are dealt in the order of their hashes, those with a judged pair first."""
    with_judged = {query for query, one in zip(queries, judged.tolist(), strict=True) if one}
    if len(with_judged) < 2:
        raise UsageError(
            "pairs of a single query can be judged, so no other one can say whether what is fitted to it holds: take "
            "more pairs, a larger catalogue, or --max-distance 1"
        )
    dealt = sorted(set(queries), key=lambda query: (query not in with_judged, content_id(query, letter="q", digits=64)))
    fold = {query: at % FOLDS for at, query in enumerate(dealt)}
    return np.array([fold[query] for query in queries])


@dataclass(frozen=True)
class CalibrationRequest:
    """What ``whymatch calibrate`` is asked for.

    Attributes:
      serving: the bundle, a local folder, and how it is served.
      catalogue: its products are the queries and references of the run.
      maps: those of a run over validation pairs.
      split: pairs whose query is of this split are used, "all" for every pair.
      scale: the kind of scales; "best" for the one that does best on queries that it was not fitted to.
      removal: which products stand for a query without an attribute.
      record: a JSON file for everything that was tried.
    """

    serving: Serving
    catalogue: str
    maps: AuditMaps
    split: str = "valid"
    scale: Kind | Literal["best"] = "best"
    removal: Removal = field(default_factory=Removal)
    record: Path | None = None


def calibrate_command(
    request: CalibrationRequest, *, access: storage.Access | None = None, echo: Echo = print
) -> Calibration:
    """Calibrates the ranking of a bundle, and writes it there; ``access`` as for :func:`collect`.

    What the bundle says else, such as a description, may change meanwhile: it is read again before it is written.

    Raises:
      UsageError: the run, the bundle and the catalogue do not belong together, no query is of the split, nothing can be
        judged, or the bundle's networks, names or priors changed meanwhile. Nothing is written then.
    """
    serving, removal, bundle = request.serving, request.removal, Path(request.serving.bundle)
    described = require_attributes(bundles.read(serving.bundle), serving.bundle)
    dataset = collect(request.maps, serving, request.catalogue, removal=removal, access=access, echo=echo)
    if request.split != "all":
        dataset = dataset.of_split(request.split)
    found = calibrate(dataset, KINDS if request.scale == "best" else (request.scale,), described.ranking)
    for line in _told(dataset, found):
        echo(line)
    now = _unchanged(bundle, described)
    if request.record is not None:
        content = json.dumps(_recorded(dataset, found, removal), indent=1, ensure_ascii=False)
        _replace_text(request.record, content + "\n")
    bundles.rewrite(replace(now, phi=found.phi, scales=found.scales), bundle)
    echo(f"{bundle / bundles.MANIFEST}: phi {_phi(found.phi)} on the scale {found.kind}")
    return found


def _unchanged(folder: Path, before: Bundle) -> Bundle:
    """The bundle in ``folder`` as it is now; UsageError where what was calibrated on is not what it was."""
    now = bundles.read(str(folder))
    for name in ("model_id", "attribute_model_id", "vocabulary", "priors"):
        if getattr(now, name) != getattr(before, name):
            raise UsageError(
                f"{folder}: its {name} changed while it was calibrated, so phi and scales would not fit. Nothing was "
                "written: calibrate again when no other command changes the bundle"
            )
    return now


def _replace_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        private = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        private.write_text(text, encoding="utf-8")
        os.replace(private, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _told(dataset: RankingDataset, found: Calibration) -> Iterator[str]:
    oracle = Oracle(dataset.drops)
    queries = dict(zip(dataset.queries, dataset.splits, strict=True))
    splits = Counter(split or "no split" for split in queries.values())
    yield (
        f"run {dataset.run_id}, {dataset.method}: {len(dataset.pairs):,} pairs of {len(queries):,} queries "
        f"({', '.join(f'{count:,} {split}' for split, count in splits.most_common())})"
    )
    if splits["test"]:
        yield "queries of the split test are among them: what is chosen here must not be judged by them again"
    scored = np.isfinite(dataset.drops) & dataset.on_query
    yield (
        f"{scored.sum() / max(1, dataset.on_query.sum()):.0%} of the queries' attributes could be removed; "
        f"{int(oracle.judged.sum()):,} pairs are judged, of {oracle.unscored:,} no attribute could be removed, of "
        f"{oracle.not_above_zero:,} none makes the similarity drop"
    )
    yield (
        f"by cross-fitting over {FOLDS} folds of queries: the figures of scales and phi that were fitted to the other "
        "folds' queries. The phi shown is that of all"
    )
    yield f"{'ranking':<18}{'phi':<18}{'removal':>8}{'top 1':>8}{'top 5':>8}"
    rows = [("as it was", found.before), ("confidence alone", found.alone)]
    rows += list(found.held_out.items())
    for name, point in rows:
        yield f"{name:<18}{_phi(point.phi):<18}{point.removal:>8.3f}{point.top1:>8.3f}{point.top5:>8.3f}"


def _recorded(dataset: RankingDataset, found: Calibration, removal: Removal) -> dict[str, Any]:
    """Everything that was tried, JSON values only."""
    oracle = Oracle(dataset.drops)
    return {
        "run_id": dataset.run_id,
        "method": dataset.method,
        "pairs": len(dataset.pairs),
        "queries": len(set(dataset.queries)),
        "splits": Counter(split or "none" for split in dataset.splits),
        "folds": FOLDS,
        "left_out": dict(dataset.left_out),
        "removal": asdict(removal),
        "judged": int(oracle.judged.sum()),
        "unscored": oracle.unscored,
        "not_above_zero": oracle.not_above_zero,
        "scale": found.kind,
        "phi": found.phi,
        "before": asdict(found.before),
        "confidence_alone": asdict(found.alone),
        "scales": {
            kind: {
                "scales": asdict(scales),
                "held_out": asdict(found.held_out[kind]),
                "best": asdict(search.best),
                "grid": [asdict(one) for one in search.grid],
            }
            for kind, (scales, search) in found.searches.items()
        },
    }


def _phi(phi: Sequence[float]) -> str:
    return ",".join(f"{weight:g}" for weight in phi)
