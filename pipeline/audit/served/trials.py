"""What would make a bundle give the scores that were served: other settings, tried by embedding some pairs anew.

The outer loop runs over images: each is read and decoded once, however many settings are tried, and none is held.
A normalisation is an affine change of the pixels, and those that it asks for go in as the fill under a mask of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.options import AuditOptions
from transforms import storage
from transforms.core.errors import PairError
from transforms.core.imaging import images
from transforms.core.imaging.alternative_preprocessing import Normalised, Setting, alternatives
from transforms.core.imaging.images import ImageLimits, Resize
from transforms.core.messages import Echo
from transforms.core.records import Float32, Float64, Image, Pair
from transforms.core.similarity import conditioned
from transforms.core.statistics.served_scores import (
    Measures,
    ScoreAgreement,
    ScoreScale,
    Trial,
    score_scales,
    trial,
    tried_pairs,
)
from transforms.serving.bundle import Bundle
from transforms.serving.embed import embed_frames
from transforms.serving.mask_bank import MaskBank
from transforms.serving.models import Models

_Suspect = tuple[tuple[bool, int, float], Setting, ScoreScale | None]

_SCREENED = 8
"""Pairs on which every setting is tried first."""

_PROMISING = 6
"""Of these, how many are tried on all pairs."""


@dataclass(frozen=True)
class Tried:
    """What came of the trials: those that ``fits``, the best first, and the ``nearest`` where none does.

    ``before`` is the agreement of the bundle as it is on the same ``pairs``; ``count`` suspects were tried.
    """

    fits: tuple[Trial, ...]
    nearest: Trial | None
    before: ScoreAgreement
    pairs: int
    count: int


def search(
    pairs: Sequence[Pair],
    served: Float64,
    off: NDArray[np.bool_],
    options: AuditOptions,
    bundle: Bundle,
    files: Sequence[str],
    models: Models,
    echo: Echo,
) -> Tried:
    """Tries other settings of ``bundle`` on up to 64 of ``pairs``, whose ``served`` scores [P] are ``off`` [P] or not.

    Other readings of the scores alone first, then settings one at a time, then two changes at a time, until some fit.
    """
    most = 64 if bundle.similarity.batch is None else max(_SCREENED, 64 // bundle.similarity.batch)
    chosen = tried_pairs(off, most)
    some = _Some([pairs[at] for at in chosen], served[chosen], bundle, options.score_tolerance)
    embedding = _Embedding(bundle, models, options.access(tuple(files)), options.limits())
    record = Normalised.recorded(bundle.similarity.preprocessing)
    now = Setting((), record, bundle.resize)
    others = score_scales(bundle.similarity_function)
    few = some.few(_SCREENED)

    base = embedding.vectors([now], some.addresses)[0]
    before = some.trial(now, None, base)
    count, found = len(others), [some.trial(now, reading, base) for reading in others]
    if not any(one.agreement.agrees for one in found):
        screened: list[tuple[Setting, Mapping[str, Float32]]] = []
        for together in (1, 2):
            settings = list(alternatives(record, bundle.resize, together))
            echo(f"served scores: looking for the cause, {len(settings)} other settings")
            vectors = embedding.vectors(settings, few.addresses)
            suspects: list[_Suspect] = [
                (few.trial(one, None, each).order, one, None) for one, each in zip(settings, vectors, strict=True)
            ]
            suspects += [
                (few.trial(one, reading, each).order, one, reading) for one, each in screened for reading in others
            ]
            screened = list(zip(settings, vectors, strict=True))
            count += len(suspects)
            suspects.sort(key=lambda suspect: suspect[0])
            del suspects[_PROMISING:]
            whole = embedding.vectors([one for _, one, _ in suspects], some.addresses)
            found += [some.trial(one, how, each) for (_, one, how), each in zip(suspects, whole, strict=True)]
            if any(one.agreement.agrees for one in found):
                break
    found.sort(key=lambda one: one.order)
    fits = tuple(one for one in found if one.agreement.agrees)
    return Tried(fits, None if fits or not found else found[0], before.agreement, len(chosen), count)


@dataclass(frozen=True)
class _Some:
    """The pairs that settings are tried on, and their served scores [P]."""

    pairs: list[Pair]
    served: Float64
    bundle: Bundle
    tolerance: float

    @property
    def addresses(self) -> list[str]:
        return list(dict.fromkeys(address for pair in self.pairs for address in (pair.query, pair.reference)))

    def few(self, count: int) -> _Some:
        """Some of these, spread evenly."""
        at = np.unique(np.arange(count) * len(self.pairs) // count)
        return _Some([self.pairs[one] for one in at], self.served[at], self.bundle, self.tolerance)

    def trial(self, setting: Setting, reading: ScoreScale | None, vectors: Mapping[str, Float32]) -> Trial:
        function = self.bundle.similarity_function
        measures = Measures.of(*pair_vectors(self.pairs, vectors, self.bundle))
        flags = str(setting) if setting.changes else None
        return trial(flags, reading, measures, self.served, function, self.tolerance)


def pair_vectors(pairs: Sequence[Pair], vectors: Mapping[str, Float32], bundle: Bundle) -> tuple[Float32, Float32]:
    """What is compared of both images of ``pairs``, [P, D] each: their embeddings under each pair's condition."""
    sides = []
    for addresses in ([pair.query for pair in pairs], [pair.reference for pair in pairs]):
        of_side = np.stack([vectors[address] for address in addresses])
        for name, mask in bundle.conditions.items():
            if under := [at for at, pair in enumerate(pairs) if pair.condition == name]:
                of_side[under] = conditioned(of_side[under], np.array(mask, np.float32), bundle.similarity_function)
        sides.append(of_side)
    return sides[0], sides[1]


class _Nothing:
    """One mask of zeros: what is embedded is the fill alone."""

    n = 1
    key = None

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def masks(self, start: int, stop: int) -> Float32:
        return np.zeros((stop - start, *self.size), np.float32)


class _Embedding:
    """Embeds images under other settings than the bundle's."""

    def __init__(self, bundle: Bundle, models: Models, access: storage.Access, limits: ImageLimits) -> None:
        self._bundle, self._models, self._access, self._limits = bundle, models, access, limits
        self._record = Normalised.recorded(bundle.similarity.preprocessing)
        # a single pass, also where full batches are taken for the sake of the last bits
        fixed = bundle.similarity.batch
        model = models.similarity
        self._bank = MaskBank(_Nothing(model.size), fixed or 1, model.device, pad=fixed is not None)

    def vectors(self, settings: Sequence[Setting], addresses: Iterable[str]) -> list[dict[str, Float32]]:
        """For each setting the embedding [D] of each image; NaN where the network fails."""
        out: list[dict[str, Float32]] = [{} for _ in settings]
        for address in addresses:
            for vectors, vector in zip(out, self._of_image(address, settings), strict=True):
                vectors[address] = vector
        return out

    def _of_image(self, address: str, settings: Sequence[Setting]) -> Sequence[Float32]:
        try:
            image = images.decode(storage.read_image(address, self._access), self._limits)
        except PairError:  # it could be read a moment ago
            return list(self._failed(len(settings)))
        frames: dict[Resize, Image] = {}
        plain: dict[int, Image] = {}
        found: dict[int, Float32] = {}
        for at, setting in enumerate(settings):
            if setting.resize not in frames:
                frames[setting.resize] = images.resize(image, setting.resize)[0]
            frame = frames[setting.resize]
            pixels: Image | Float32 = frame
            if self._record is not None and setting.normalised is not None:
                pixels = self._record.pixels_for(frame, setting.normalised)
            if pixels.dtype == np.uint8:
                plain[at] = np.asarray(pixels, np.uint8)
            else:
                found[at] = self._filled(frame, np.asarray(pixels, np.float32))
        for at, vector in zip(plain, self._plain(list(plain.values())), strict=True):
            found[at] = vector
        return [found[at] for at in range(len(settings))]

    def _plain(self, frames: Sequence[Image]) -> list[Float32]:
        """Embeddings [D] of frames of the bundle's own normalisation."""
        found = embed_frames(frames, self._models.similarity)
        failed = self._failed(1)[0]
        return [failed if isinstance(one, PairError) else one for one in found]

    def _filled(self, frame: Image, pixels: Float32) -> Float32:
        """The embedding [D] of ``pixels`` float32 [H, W, 3]."""
        try:
            vectors = self._models.similarity.perturbed(frame, self._bank, pixels[None])
        except PairError:
            vectors = self._failed(1)
        vector: Float32 = vectors[0]
        return vector

    def _failed(self, count: int) -> Float32:
        nan: Float32 = np.full((count, self._bundle.embedding_size), np.nan, np.float32)
        return nan
