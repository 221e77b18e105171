"""Whether the images of explanations are still those that were audited, or why they cannot be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from transforms.core.errors import ImageChanged, UnknownCondition
from transforms.core.records import EmbeddedImage, Float32, LoadFailure
from transforms.core.since_audit import same_bytes, same_similarity
from transforms.evaluating.measured_image import similarities_of
from transforms.serving.load_image import LoadedImage
from transforms.serving.models import Models
from transforms.tables.explained import Explained

_REMEDY = "Audit again, or give the images that were audited."


def check(
    image: LoadedImage,
    base: Float32,
    others: Mapping[str, EmbeddedImage | LoadFailure],
    explained: Sequence[Explained],
    models: Models,
) -> Iterator[LoadFailure | None]:
    """For each of ``explained`` why it cannot be measured, or None.

    ``image`` is the explained one, ``base`` [1, D] its embedding, ``others`` the other ones by address. Compared are
    the sha256 of both images, where the audit's is known, and their similarity.
    """
    for one in explained:
        other = others[one.target.counterpart]
        condition = one.target.pair.condition
        if isinstance(other, LoadFailure):
            yield other
        elif condition is not None and condition not in models.bundle.conditions:
            yield LoadFailure.of(UnknownCondition(f"the bundle has no condition {condition!r}"))
        elif changed := _other_bytes(one, image.sha256, other.sha256):
            yield changed
        else:
            yield changed_since(one.similarity, float(similarities_of(one.target, base, other, models)[0]))


def _other_bytes(explained: Explained, *now: str) -> LoadFailure | None:
    for which, then, digest in zip(("explained", "other"), explained.audited, now, strict=True):
        if not same_bytes(then, digest):
            return LoadFailure.of(ImageChanged(f"the {which} image has other bytes than in the audit. {_REMEDY}"))
    return None


def changed_since(then: float | None, now: float) -> LoadFailure | None:
    """Why a pair whose similarity was ``then`` in the audit and is ``now`` another cannot be measured, else None."""
    if same_similarity(then, now):
        return None
    was = "none" if then is None else f"{then:.4f}"
    return LoadFailure.of(ImageChanged(f"the similarity is {now:.4f} and was {was} in the audit. {_REMEDY}"))
