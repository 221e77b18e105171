"""What the similarity of held-out pairs follows: along which concept vectors it rises, beyond what chance gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.ranking.priors.concept_vectors import ConceptVectors
from export.ranking.priors.held_out import HeldOutPair, counts_text
from export.ranking.priors.network import CutNetwork, ImageValues
from export.ranking.priors.settings import PriorSettings
from transforms.core.attributes import concepts
from transforms.core.attributes.concepts import SettledPriors
from transforms.core.errors import UsageError
from transforms.core.messages import Echo
from transforms.core.records import Float64
from transforms.serving.bundle import Bundle

_FEWEST_PAIRS = 10


@dataclass(frozen=True)
class Tested:
    """What was found of one attribute; ``untested`` says why it has no score.

    ``score`` and ``spread`` are mean and standard deviation of its TCAV scores, one for each counter-set; ``p_value``
    is that of the test against random concepts. ``positives`` counts training products with the attribute, ``pairs``
    those that its score counts. ``accuracy`` is the mean of its concept vectors', see
    :func:`export.ranking.priors.concept_vectors.concept_vector`.
    """

    score: float | None = None
    spread: float | None = None
    p_value: float | None = None
    significant: bool = False
    positives: int = 0
    pairs: int = 0
    accuracy: float | None = None
    untested: str | None = None


def rising_pairs(
    pairs: Sequence[HeldOutPair],
    known: Mapping[str, ImageValues],
    vectors: Float64,
    bundle: Bundle,
    network: CutNetwork,
    settings: PriorSettings,
    left_out: Counter[str],
    echo: Echo,
) -> tuple[list[HeldOutPair], NDArray[np.bool_]]:
    """The pairs that can be used, and whether the similarity of each rises along each vector: [V, P].

    ``known`` has images that were run before. A pair of one image with itself is left out: its similarity is at its
    peak, so that only rounding would decide. UsageError where too few are left.
    """
    images = dict(known)
    if others := [pair.reference for pair in pairs if pair.reference not in known]:
        for address, image in network.run_images(others, "embedding references", left_out, echo):
            images[address] = image.without_values()
    by_query: dict[str, list[HeldOutPair]] = {}
    for pair in pairs:
        by_query.setdefault(pair.query, []).append(pair)
    kept: list[HeldOutPair] = []
    columns: list[NDArray[np.bool_]] = []
    axis = network.cut.axis - 1
    doing = f"moving queries along {len(vectors):,} vectors, both ways"
    for address, query in network.run_images(by_query, doing, Counter() if known else left_out, echo):
        usable = _with_another_image(by_query[address], query, images)
        if not usable:
            continue
        moved = concepts.move(
            network.run_values, query.values, vectors, axis=axis, share=settings.step, rows=network.cut.rows
        )
        for condition in dict.fromkeys(pair.condition for pair in usable):
            alike = [pair for pair in usable if pair.condition == condition]
            embeddings = np.stack([images[pair.reference].embedding for pair in alike])
            mask = None if condition is None else bundle.conditions[condition]
            columns.append(moved.derivatives(embeddings, bundle.similarity_function, mask) > 0)
            kept += alike
    if len(kept) < len(pairs):
        left_out["pairs without two usable images that differ"] += len(pairs) - len(kept)
    if len(kept) < _FEWEST_PAIRS:
        raise UsageError(
            f"{len(kept)} pairs can be used, and shares of fewer than {_FEWEST_PAIRS} say little: "
            f"{counts_text(left_out)}"
        )
    return kept, np.concatenate(columns, axis=1)


def _with_another_image(
    pairs: Sequence[HeldOutPair], query: ImageValues, images: Mapping[str, ImageValues]
) -> list[HeldOutPair]:
    """Those of ``pairs`` whose reference is known and another image than ``query``."""
    return [pair for pair in pairs if pair.reference in images and images[pair.reference].sha256 != query.sha256]


def run_test(
    place: int,
    name: str,
    learned: ConceptVectors,
    pairs: Sequence[HeldOutPair],
    positive: NDArray[np.bool_],
    settings: PriorSettings,
) -> Tested:
    """What the pairs say of one attribute."""
    counted = np.array([settings.among == "all" or name in pair.attributes for pair in pairs], np.bool_)
    count, positives = int(counted.sum()), learned.positives[place]
    rows = learned.rows.get(place)
    if rows is None:
        return Tested(positives=positives, pairs=count, untested=learned.lacking[place])
    accuracy = float(learned.accuracy[rows].mean())
    if count < _FEWEST_PAIRS:
        why = f"{count} pairs have a query with it"
        return Tested(positives=positives, pairs=count, accuracy=accuracy, untested=why)
    scores, chance = (concepts.tcav_scores(positive[some], counted) for some in (rows, learned.random))
    p_value = concepts.welch(scores, chance)
    return Tested(float(scores.mean()), float(scores.std(ddof=1)), p_value, False, positives, count, accuracy)


def settle(tested: Sequence[Tested], settings: PriorSettings) -> tuple[list[Tested], SettledPriors]:
    """The priors, and ``tested`` with what is significant."""
    scores, p_values = (
        np.array([np.nan if value is None else value for value in values])
        for values in zip(*((one.score, one.p_value) for one in tested), strict=True)
    )
    if np.isnan(scores).all():
        raise UsageError(f"no attribute can be tested; of the first one {tested[0].untested}")
    settled = concepts.settle_priors(scores, p_values, settings.alpha)
    return [replace(one, significant=bool(yes)) for one, yes in zip(tested, settled.significant, strict=True)], settled
