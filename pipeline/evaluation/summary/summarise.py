"""From the rows of an evaluation to its summary.

The unit is the explained product: its pairs share the masked passes of its image and are nearly one observation. So
every interval is a bootstrap over queries, or, of the reference's side, over references
(:mod:`transforms.core.statistics.bootstrap`), and methods are compared on the pairs that both have.

:mod:`pipeline.evaluation.text.write` puts a summary into words and tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from pipeline.evaluation.summary.differences import differences
from pipeline.evaluation.summary.findings import EvaluationSummary
from pipeline.evaluation.summary.measures import measures
from pipeline.evaluation.summary.order import key_order, metric_order
from pipeline.evaluation.summary.resampling import PairedResampling
from pipeline.evaluation.summary.samples import CollectedRows
from pipeline.evaluation.summary.verdicts import verdicts
from transforms.tables import Row


def summarise(
    rows: Iterable[Row], *, sanity_limit: float = 0.5, resamples: int = 10_000, seed: int = 0
) -> EvaluationSummary:
    """The summary of one evaluation's ``rows``, as of the table ``metrics``.

    A row's ``weight`` weights its pair in every mean; without one it is 1. Rows without a finite value are counted
    under their reason. ValueError where two rows measure the same of one pair: then they are not of one evaluation.

    Args:
      rows: in any order; read once, one number of each is kept.
      sanity_limit: a mean agreement below it passes.
      resamples: of the bootstrap over queries.
      seed: of the bootstrap.
    """
    collected = CollectedRows()
    for row in rows:
        collected.add(row)
    samples, queries, weights = collected.sorted()
    draws = PairedResampling(queries, weights, resamples, seed)
    found = measures(samples, collected, draws)
    return EvaluationSummary(
        measures=tuple(sorted(found, key=lambda one: (*metric_order(one.metric), *key_order(one)))),
        differences=tuple(differences(samples, draws)),
        verdicts=tuple(verdicts(found, sanity_limit)),
        reasons=collected.reasons,
        examples=MappingProxyType(dict(sorted(collected.examples.items()))),
        sanity_limit=sanity_limit,
    )
