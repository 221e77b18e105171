"""SANE's choice of the attribute that best explains a match.

B. Plummer, M. Vasileva, V. Petsiuk, K. Saenko, D. Forsyth, "Why do These Match? Explaining the Behavior of Image
Similarity Models", ECCV 2020, section 3.3 (eq. 5): an attribute explains a match when the attribute network is
confident that the query has it, and when the pixels that speak for it are those that the saliency map marks::

    e_a = phi_1 * confidence_a + phi_2 * cos(activation map n_a, saliency map m)

A prior over attributes, the paper's third term, does not enter yet: where a bundle carries one, it stands beside the
score in the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transforms.core.maps import area_average
from transforms.core.types import Float32, Float64


def match_scores(activations: Float32, saliency: Float64) -> Float64:
    """Cosine [A], in [-1, 1], of each activation map of [A, h, w] with ``saliency`` [H, W] averaged down to h x w.

    0 where either is zero everywhere. Both keep their sign: evidence against an attribute where the saliency is high
    lowers its match.
    """
    small = area_average(saliency, (activations.shape[1], activations.shape[2])).ravel()
    rows = activations.reshape(len(activations), -1).astype(np.float64)
    length = np.sqrt(np.square(rows).sum(axis=1) * np.square(small).sum())
    inner = (rows * small).sum(axis=1)
    cosines: Float64 = np.divide(inner, length, out=np.zeros_like(inner), where=length > 0)
    return cosines


@dataclass(frozen=True, slots=True)
class RankedAttribute:
    """One attribute as an explanation of a match: ``score`` e_a and its parts. ``index`` is its vocabulary place."""

    index: int
    score: float
    confidence: float
    match: float


def rank_attributes(
    confidence: Float32, activations: Float32, saliency: Float64, phi: tuple[float, float], top: int
) -> list[RankedAttribute]:
    """The ``top`` attributes by e_a, best first; ties go to the attribute that stands first in the vocabulary.

    Args:
      confidence: the attribute network's scores of the query, [A] in [0, 1].
      activations: its activation maps, [A, h, w].
      saliency: the pair's saliency map, [H, W].
      phi: phi_1 and phi_2.
    """
    match = match_scores(activations, saliency)
    score = phi[0] * confidence.astype(np.float64) + phi[1] * match
    order = np.argsort(-score, kind="stable")[:top]
    return [RankedAttribute(int(at), float(score[at]), float(confidence[at]), float(match[at])) for at in order]
