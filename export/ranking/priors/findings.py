"""What a bundle keeps of how its priors were found, and what is shown of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.ranking.priors.concept_vectors import ConceptVectors
from export.ranking.priors.testing import Tested
from transforms.core.attributes import concepts
from transforms.core.attributes.concepts import SettledPriors

_SHOWN = 5  # attributes at either end of the table


def findings(
    names: Sequence[str],
    learned: ConceptVectors,
    positive: NDArray[np.bool_],
    tested: Sequence[Tested],
    settled: SettledPriors,
) -> dict[str, Any]:
    """What the record says of the findings, JSON values only."""
    chance = concepts.tcav_scores(positive[learned.random])
    return {
        "tested": sum(one.untested is None for one in tested),
        "significant": int(settled.significant.sum()),
        "replacement": {"mean_of": "all" if settled.every else "significant", "value": settled.replacement},
        "random": {
            "score": float(chance.mean()),
            "spread": float(chance.std(ddof=1)),
            "accuracy": float(learned.accuracy[learned.random].mean()),
        },
        "attributes": {name: asdict(one) for name, one in zip(names, tested, strict=True)},
    }


def table(vocabulary: Sequence[str], tested: Sequence[Tested], settled: SettledPriors) -> Iterator[str]:
    """The strongest and the weakest significant attributes, and how many there are."""
    rows = sorted(
        ((one.score or 0.0, name, one) for name, one in zip(vocabulary, tested, strict=True) if one.significant),
        key=lambda row: (-row[0], row[1]),
    )
    shown = rows if len(rows) <= 2 * _SHOWN else [*rows[:_SHOWN], None, *rows[-_SHOWN:]]
    width = max([len("attribute"), *(len(row[1]) for row in shown if row)])
    if rows:
        yield f"{'attribute':<{width}}  {'prior':>6}  {'p':>8}  {'accuracy':>8}  {'products':>8}"
    for row in shown:
        if row is None:
            yield f"... {len(rows) - 2 * _SHOWN} more"
            continue
        score, name, one = row
        figures = f"{score:>6.3f}  {one.p_value or 0:>8.1g}  {one.accuracy or 0:>8.2f}  {one.positives:>8,}"
        yield f"{name:<{width}}  {figures}"
    mean = "all, which rank nothing then" if settled.every else "these"
    untested = sum(one.untested is not None for one in tested)
    yield (
        f"{len(rows)} of {len(tested)} attributes are significant, {untested} could not be tested; the prior of the "
        f"others is the mean of {mean}, {settled.replacement:.3f}"
    )
