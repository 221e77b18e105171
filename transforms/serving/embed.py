"""Images to embeddings: one that cannot be loaded or embedded becomes its failure, and takes no other with it.

Who has frames already embeds them by :func:`embed_frames`, and whatever else is run in batches is kept apart by
:func:`isolate`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
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
from transforms.serving.runtime import SimilarityModel

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
    addresses: list[str],
    load: Load,
    models: Models,
    masked: ReferenceMasks | None = None,
    wanted: Collection[str] = (),
) -> list[Outcome]:
    """Embeds the images at ``addresses``; one that cannot be loaded or embedded becomes its failure.

    Those of ``wanted`` get their masked versions too.
    """
    outcomes: dict[str, EmbeddedImage | LoadFailure] = {}
    loaded: dict[str, LoadedImage] = {}
    for address in addresses:
        try:
            loaded[address] = load(address)
        except PairError as error:
            outcomes[address] = LoadFailure.of(error)
    if loaded:
        outcomes.update(_embed_loaded(loaded, models))
    for address in wanted if masked else ():
        outcome = outcomes[address]
        if masked and isinstance(outcome, EmbeddedImage):
            outcomes[address] = _with_masked(outcome, loaded[address], masked, models)
    return [(address, outcomes[address]) for address in addresses]


def embed_frames(frames: Sequence[Image], similarity: SimilarityModel) -> list[Float32 | PairError]:
    """The finite embedding [D] of each of ``frames`` uint8 [H, W, 3], which are of the network's size, or its error."""
    broken = NonFiniteEmbedding("the embedding holds NaN or infinity")
    return [
        one if isinstance(one, PairError) or np.isfinite(one).all() else broken
        for one in isolate(lambda some: similarity.embed(np.stack(some)), frames)
    ]


def _embed_loaded(loaded: dict[str, LoadedImage], models: Models) -> dict[str, EmbeddedImage | LoadFailure]:
    pixels = np.stack([image.pixels for image in loaded.values()])
    try:
        embeddings = models.similarity.embed(pixels)
        scores = models.attributes.predict(pixels)[0] if models.attributes else None
    except PairError as error:
        if len(loaded) == 1:
            return {address: LoadFailure.of(error) for address in loaded}
        # one image must not take the others of its batch with it
        alone = [_embed_loaded({address: image}, models) for address, image in loaded.items()]
        return {address: outcome for one in alone for address, outcome in one.items()}
    outcomes: dict[str, EmbeddedImage | LoadFailure] = {}
    for at, (address, image) in enumerate(loaded.items()):
        if np.isfinite(embeddings[at]).all():
            outcomes[address] = EmbeddedImage(
                address, image.sha256, *image.frame.original, embeddings[at], None if scores is None else scores[at]
            )
        else:
            outcomes[address] = LoadFailure.of(NonFiniteEmbedding("the embedding holds NaN or infinity"))
    return outcomes


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
