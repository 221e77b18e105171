"""How fast this machine is with a bundle: a few seconds of masked batches, and what its images take to load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np

from transforms import storage
from transforms.core.errors import PairError, UsageError
from transforms.core.imaging.fill import make_fill
from transforms.core.imaging.images import frame_of
from transforms.core.records import Float32
from transforms.core.saliency.contract import draws_masks
from transforms.core.saliency.explainer import Explainer, ReferenceMasks
from transforms.serving.load_image import ImageLoader, LoadedImage
from transforms.serving.models import Models

MOST_TRIED = 32
"""Addresses that are tried until ``MOST_LOADED`` images are there."""
MOST_LOADED = 8
"""Images that loading is timed on: their sizes differ."""
FEWEST = 2
"""Batches that are timed at least."""
GREY = 127

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured on this machine, for one worker.

    passes_per_second: masked forward passes of the similarity network.
    gradient_passes_per_second: passes of its gradient, None where no method follows it.
    seconds_per_image: to read, decode and resize one; 0 where none could be loaded.
    bytes_per_image: the mean size of the files that were loaded; 0 where none could be.
    images_tried, images_loaded: of the addresses that were given. Where none was loaded, a grey image was masked.
    """

    passes_per_second: float
    gradient_passes_per_second: float | None
    seconds_per_image: float
    bytes_per_image: int
    images_tried: int
    images_loaded: int


def probe(
    models: Models,
    explainers: Sequence[Explainer],
    load: ImageLoader,
    addresses: Iterable[str],
    *,
    seconds: float = 3.0,
    most: int | None = None,
    clock: Clock = time.perf_counter,
) -> Probe:
    """Times loading, masked passes and, where a method follows it, the gradient.

    Args:
      models: open, as a worker has them. explainers: of the run; the masks are those of the first that has some.
      load: the run's loader. addresses: of the run's images, of which the first few are read.
      seconds: about as long as all of it may take. most: passes at most, of each kind; a short run is no slower for
        having been planned. Whatever they say, ``FEWEST`` batches are timed after a first one, which warms up.

    Raises:
      UsageError: the similarity network, or its gradient, fails on an image.
    """
    loading = _load(load, addresses, until=clock() + seconds / 4, clock=clock)
    image = loading.first or _grey(load)
    follows_gradient = any(explainer.method.needs.graph == "gradient" for explainer in explainers)
    share = seconds / 4 if follows_gradient else 3 * seconds / 4
    try:
        passes = _speed(_masked(models, explainers, image), share, most, clock)
        gradient_passes = _speed(_gradient_passes(models, image), 2 * share, most, clock) if follows_gradient else None
    except PairError as error:
        raise UsageError(
            f"the bundle's network does not run here: {error}. `whymatch check` tries it on images one by one."
        ) from None
    return Probe(passes, gradient_passes, loading.seconds, loading.bytes, loading.tried, loading.loaded)


@dataclass(frozen=True)
class _Loading:
    """``first`` is the first image that could be loaded; ``seconds`` and ``bytes`` are means of the ``loaded`` ones."""

    first: LoadedImage | None
    seconds: float
    bytes: int
    tried: int
    loaded: int


def _load(load: ImageLoader, addresses: Iterable[str], until: float, clock: Clock) -> _Loading:
    first: LoadedImage | None = None
    tried, sizes, taken = 0, [], 0.0
    for address in islice(dict.fromkeys(islice(addresses, 4 * MOST_TRIED)), MOST_TRIED):
        tried += 1
        started = clock()
        try:
            loaded = load(address)
            ended = clock()
            sizes.append(len(storage.read_image(address, load.access)))
        except PairError:
            continue
        taken += ended - started
        first = first or loaded
        if len(sizes) == MOST_LOADED or clock() > until:
            break
    count = len(sizes)
    return _Loading(first, taken / max(count, 1), round(sum(sizes) / max(count, 1)), tried, count)


def _grey(load: ImageLoader) -> LoadedImage:
    size = load.resize.size
    return LoadedImage(np.full((*size, 3), GREY, np.uint8), frame_of(size, load.resize), "0" * 64)


def _speed(batches: Iterator[int], seconds: float, most: int | None, clock: Clock) -> float:
    """Passes a second over ``batches``, an endless iterator over the passes of one batch after the other.

    It takes ``seconds``, or ``most`` passes, whichever comes first, but ``FEWEST`` batches.
    """
    next(batches)
    done = count = 0
    started = clock()
    while count < FEWEST or (clock() - started < seconds and (most is None or done < most)):
        done += next(batches)
        count += 1
    return done / max(clock() - started, 1e-9)


def _masked(models: Models, explainers: Sequence[Explainer], image: LoadedImage) -> Iterator[int]:
    """Runs masked batches for as long as somebody asks, through the masks again when they are at an end."""
    size = models.similarity.size
    # the fill and which masks hardly matter for the speed: an image's own superpixels are as fast
    drawing = (explainer.method for explainer in explainers if draws_masks(explainer.method))
    method = next(drawing, ReferenceMasks(4 * models.similarity.batch, "auto", 0).method(size))
    design = models.design(method, image.sha256)
    fill = make_fill("auto", image.pixels, models.bundle.fill_mean)
    bank = models.bank_of(design)
    rounds = (models.similarity.blocks(image.pixels, bank, fill) for _ in repeat(None))
    return (len(block) for block in chain.from_iterable(rounds))


def _gradient_passes(models: Models, image: LoadedImage) -> Iterator[int]:
    """Runs full batches of the gradient for as long as somebody asks."""
    rows = models.gradient.batch
    fill = make_fill("auto", image.pixels, models.bundle.fill_mean)
    condition = next((np.array(mask, np.float32) for mask in models.bundle.conditions.values()), None)
    gradient = models.gradient.at(image.pixels, fill, condition)
    references: Float32 = np.repeat(models.similarity.embed(image.pixels[None]), rows, axis=0)
    masks = np.ones((rows, *models.similarity.size), np.float32)
    while True:
        gradient(masks, references)
        yield rows
