"""Concept vectors of a vocabulary's attributes, from training products with and without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from export.ranking.priors.held_out import counts_text
from export.ranking.priors.network import CutNetwork
from export.ranking.priors.progress_lines import progress_lines
from export.ranking.priors.settings import PriorSettings
from transforms.core.attributes import concepts
from transforms.core.attributes.names import column_of
from transforms.core.errors import BundleError, MissingDependency, UsageError
from transforms.core.messages import Echo
from transforms.core.records import Float64, Product


@dataclass(frozen=True, eq=False)
class ConceptVectors:
    """The concept vectors of all attributes that have some, then the random ones.

    Attributes:
      vectors: float64 [V, C]. accuracy: of each one's classifier, float64 [V].
      rows: those of each attribute that has some, by its place in the vocabulary.
      random: those of random concepts.
      positives: how many training products have each attribute, [A].
      lacking: why others have none, by place.
    """

    vectors: Float64
    accuracy: Float64
    rows: Mapping[int, slice]
    random: slice
    positives: Sequence[int]
    lacking: Mapping[int, str]


def learn_concepts(
    products: Sequence[Product],
    vocabulary: Sequence[str],
    network: CutNetwork,
    settings: PriorSettings,
    left_out: Counter[str],
    echo: Echo,
) -> ConceptVectors:
    """The concept vectors of ``vocabulary`` and of random concepts, from training ``products``.

    UsageError where no attribute has enough of them.
    """
    drawn, positives, lacking = _draw(products, vocabulary, settings)
    if not drawn:
        raise UsageError(
            f"no attribute of the vocabulary has {settings.min_count} training products with it and as many without: "
            "give the catalogue that the attribute network was trained on, or lower --min-count"
        )
    chance = concepts.random_sets(
        np.arange(len(products), dtype=np.intp),
        sets=settings.random_concepts,
        size=settings.set_size,
        rng=concepts.generator(settings.seed, "random"),
    )
    wanted = {int(at) for sets in (*drawn.values(), chance) for side in chain.from_iterable(sets) for at in side}
    addresses = [products[at].image for at in sorted(wanted)]
    activations = {
        address: concepts.pooled(image.values[None], network.cut.axis)[0]
        for address, image in network.run_images(addresses, "activations of training products", left_out, echo)
    }
    fits = _Fits([activations.get(product.image) for product in products], settings.min_count)
    progress = progress_lines("concept vectors", "concepts", len(drawn) + 1, echo)
    rows: dict[int, slice] = {}
    for place, sets in drawn.items():
        if (found := fits.add(sets)) is None:
            lacking[place] = f"fewer than {settings.min_count} usable images on a side of its sets"
        else:
            rows[place] = found
        progress.add(1)
    random = fits.add(chance)
    progress.add(1)
    if random is None or not rows:
        raise UsageError(f"too few images of training products can be used: {counts_text(left_out)}")
    vectors = np.stack([vector for vector, _ in fits.found])
    return ConceptVectors(vectors, np.array([accuracy for _, accuracy in fits.found]), rows, random, positives, lacking)


@dataclass(frozen=True)
class _Fits:
    """Vectors and accuracies found so far, from the ``activations`` [C] of each product, None where unknown."""

    activations: Sequence[Float64 | None]
    least: int
    found: list[tuple[Float64, float]] = field(default_factory=list)

    def add(self, sets: concepts.Sets) -> slice | None:
        """Finds a vector for each of ``sets``; None where too few of the images of a side could be used."""
        sides = [[[self.activations[at] for at in side] for side in pair] for pair in sets]
        known = [[[one for one in side if one is not None] for side in pair] for pair in sides]
        if min(len(side) for pair in known for side in pair) < self.least:
            return None
        self.found.extend(concept_vector(np.stack(ours), np.stack(others)) for ours, others in known)
        return slice(len(self.found) - len(known), len(self.found))


def _draw(
    products: Sequence[Product], vocabulary: Sequence[str], settings: PriorSettings
) -> tuple[dict[int, concepts.Sets], list[int], dict[int, str]]:
    """The sets of each attribute by its place, how many products have it [A], and why others have no sets.

    A product whose cell is empty says nothing of its column's values: it is no counter-example of them.
    """
    names = [set(product.names()) for product in products]
    filled = [{column for column, _ in product.attributes} for product in products]
    drawn, positives, lacking = dict[int, concepts.Sets](), list[int](), dict[int, str]()
    for place, name in enumerate(vocabulary):
        has = np.array([name in own for own in names], np.bool_)
        known = np.array([column_of(name) in columns for columns in filled], np.bool_)
        ours, others = np.flatnonzero(has), np.flatnonzero(known & ~has)
        positives.append(len(ours))
        if min(len(ours), len(others)) < settings.min_count:
            lacking[place] = f"{len(ours)} training products have it and {len(others)} do not"
            continue
        rng = concepts.generator(settings.seed, "concept", name)
        drawn[place] = concepts.concept_sets(ours, others, sets=settings.counter_sets, size=settings.set_size, rng=rng)
    return drawn, positives, lacking


def concept_vector(positives: Float64, negatives: Float64) -> tuple[Float64, float]:
    """The vector of a concept from examples [n, C] and counter-examples [m, C], and its classifier's accuracy.

    The normal of a logistic regression's boundary, float64 [C] of unit length, on the examples' side. Activations are
    centred and scaled to a mean square of 1, so that the penalty (C = 1) means the same at every layer. Kim et al. use
    a linear support vector machine by stochastic gradient descent; this one finds the same vector in every run, and
    vectors for different counter-sets lie closer at the same accuracy. The accuracy is that of a regression on the
    others for the last of every three rows of each side.

    Raises BundleError where the two sides cannot be told apart at all.
    """
    regression = logistic_regression()
    samples = np.concatenate([positives, negatives])
    labels = np.arange(len(samples)) < len(positives)
    samples = samples - samples.mean(axis=0)
    spread = np.sqrt(np.square(samples).sum(axis=1).mean())
    if spread > 0:
        samples /= spread
    held_out = np.concatenate([np.arange(len(side)) % 3 == 2 for side in (positives, negatives)])
    partly = regression(max_iter=1000).fit(samples[~held_out], labels[~held_out])
    normal = regression(max_iter=1000).fit(samples, labels).coef_[0]
    length = float(np.linalg.norm(normal))
    if not length:
        raise BundleError("the layer's activations are the same for products with and without an attribute")
    return normal / length, float(np.mean(partly.predict(samples[held_out]) == labels[held_out]))


def logistic_regression() -> Any:
    """scikit-learn's class, imported when it is first needed: nothing else asks for the package."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingDependency(
            "concept vectors are found with scikit-learn, which is not installed. Run: pip install 'whymatch[priors]'"
        ) from error
    return LogisticRegression
