"""Images to embeddings: one that cannot be loaded or embedded becomes its failure, and takes no other with it.

The one way of the tree to embed what addresses name. Who has frames already embeds them by :func:`embed_frames`, and
whatever else is run in batches is kept apart by :func:`isolate`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from transforms.core.errors import NonFiniteEmbedding, PairError
from transforms.core.imaging.fill import make_fill
from transforms.core.records import EmbeddedImage, Float32, Image, LoadFailure
from transforms.core.saliency.explainer import ReferenceMasks
from transforms.core.similarity import reduce_perturbed
from transforms.serving.load_image import Load, LoadedImage
from transforms.serving.models import Models
from transforms.serving.similarity_model import SimilarityModel

Outcome = tuple[str, EmbeddedImage | LoadFailure]

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def isolate(run: Callable[[Sequence[_Given]], Iterable[_Made]], items: Sequence[_Given]) -> list[_Made | PairError]:
    """What ``run`` makes of ``items``, one for one, or the error of an item that it fails for.

    Where it fails for several at once, it is tried on either half: a bad item in a batch of M costs about 2 log2 M
    further calls, and the others keep what they had.
    """
    try:
        return list(run(items)) if items else []
    except PairError as error:
        if len(items) == 1:
            return [error]
    half = len(items) // 2
    return [*isolate(run, items[:half]), *isolate(run, items[half:])]


def embed(
    addresses: Iterable[str],
    load: Load,
    models: Models,
    masked: ReferenceMasks | None = None,
    wanted: Collection[str] = (),
    *,
    scores: bool = True,
) -> Iterator[Outcome]:
    """Embeds the image at each distinct one of ``addresses``, in their order; what fails becomes its failure.

    Images are held for one batch of the network only. Those of ``wanted`` get their masked versions too. Without
    ``scores`` the attribute network, if there is one, is not asked.
    """
    distinct = list(dict.fromkeys(addresses))
    for start in range(0, len(distinct), models.similarity.batch):
        some = distinct[start : start + models.similarity.batch]
        loaded: dict[str, LoadedImage] = {}
        outcomes: dict[str, EmbeddedImage | LoadFailure] = {}
        for address in some:
            try:
                loaded[address] = load(address)
            except PairError as error:
                outcomes[address] = LoadFailure.of(error)
        outcomes.update(_embed_loaded(loaded, models, scores))
        for address in some:
            outcome = outcomes[address]
            if masked and address in wanted and isinstance(outcome, EmbeddedImage):
                outcome = _with_masked(outcome, loaded[address], masked, models)
            yield address, outcome


def embed_frames(frames: Sequence[Image], similarity: SimilarityModel) -> list[Float32 | PairError]:
    """The finite embedding [D] of each of ``frames`` uint8 [H, W, 3], which are of the network's size, or its error."""
    broken = NonFiniteEmbedding("the embedding holds NaN or infinity")
    return [
        one if isinstance(one, PairError) or np.isfinite(one).all() else broken
        for one in isolate(lambda some: similarity.embed(np.stack(some)), frames)
    ]


def _embed_loaded(loaded: dict[str, LoadedImage], models: Models, scores: bool) -> Iterator[Outcome]:
    frames = [image.pixels for image in loaded.values()]
    embeddings = embed_frames(frames, models.similarity)
    found: Sequence[Float32 | PairError | None] = [None] * len(frames)
    if scores and (attributes := models.attributes) is not None:
        found = isolate(lambda some: attributes.predict(np.stack(some))[0], frames)
    for (address, image), embedding, confidence in zip(loaded.items(), embeddings, found, strict=True):
        if isinstance(embedding, PairError):
            yield address, LoadFailure.of(embedding)
        elif isinstance(confidence, PairError):
            yield address, LoadFailure.of(confidence)
        else:
            yield address, EmbeddedImage(address, image.sha256, *image.frame.original, embedding, confidence)


def _with_masked(
    image: EmbeddedImage, loaded: LoadedImage, masked: ReferenceMasks, models: Models
) -> EmbeddedImage | LoadFailure:
    """``image`` with what is kept of its masked versions (``transforms.core.similarity.reduce_perturbed``).

    That crosses the shuffle to the images that are compared with it, and no image or mask does.
    """
    try:
        design = models.design(masked.method(models.similarity.size), loaded.sha256)
        fill = make_fill(masked.fill, loaded.pixels, models.bundle.fill_mean)
        versions = finite(models.similarity.perturbed(loaded.pixels, models.bank_of(design), fill))
    except PairError as error:
        return LoadFailure.of(error)
    masks = [np.array(mask, np.float32) for mask in models.bundle.conditions.values()]
    return replace(image, perturbed=reduce_perturbed(versions, masks, models.bundle.similarity_function))


def finite(embeddings: Float32) -> Float32:
    """``embeddings`` themselves; NonFiniteEmbedding where they hold NaN or infinity."""
    if not np.isfinite(embeddings).all():
        raise NonFiniteEmbedding("an embedding of the image, masked or not, holds NaN or infinity")
    return embeddings
