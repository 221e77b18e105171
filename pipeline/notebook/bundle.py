"""A model bundle that explains pairs here and now, by the code that an audit runs on its workers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import get_args

import numpy as np

from pipeline.notebook.explanation import Explanations, PairExplanation, PairFailure, Pictured
from pipeline.notebook.photographs import ImageSource, Photographs
from pipeline.notebook.run import RunThresholds
from pipeline.runs.runners import default_threads
from transforms import tables
from transforms.core.errors import UsageError
from transforms.core.records import SIDES, EmbeddedImage, Failure, Float32, LoadFailure, Pair, Side
from transforms.core.saliency.contract import Method
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.methods import make_method
from transforms.core.similarity import SimilarityFunction
from transforms.core.statistics.nulls import NullReferences
from transforms.core.target import ExplanationTarget
from transforms.explaining.check_explainer import check_explainer, check_settings
from transforms.explaining.explain_image import ExplainedChunk, ImageExplainer
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.explaining.verdicts import judged_row
from transforms.inputs.rows import public
from transforms.serving.embed import embed
from transforms.serving.load_image import Remembered
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import Device


class Bundle:
    """A model bundle, its networks open. Made by :meth:`load`; not to be shared by threads.

    What it explains is what an audit of the same pairs writes, to the bit.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._models = Models(serving)

    @classmethod
    def load(
        cls,
        address: str | os.PathLike[str],
        *,
        device: Device = "auto",
        threads: int | None = None,
        batch: int | None = None,
    ) -> Bundle:
        """Opens the bundle at ``address``: a folder, local, s3:// or gs://.

        Args:
          device: "cpu", "cuda" (an error where it does not run), or "auto".
          threads: CPU threads of its networks; by default all cores that this process may use.
          batch: forward passes at once; 16 on a CPU and 256 on a GPU by default.

        Raises:
          whymatch.UsageError: there is no bundle, it is damaged, or the device is not to be had.
        """
        if device not in get_args(Device):
            raise UsageError(f"the device is one of {', '.join(get_args(Device))}, not {device!r}")
        for name, given in {"threads": threads, "batch": batch}.items():
            if given is not None and given < 1:
                raise UsageError(f"{name} must be at least 1, not {given}")
        return cls(Serving(os.fspath(address), device, threads or default_threads(1), batch))

    @property
    def model_id(self) -> str:
        """The id of the similarity network with all that stands in front of it."""
        return self._models.bundle.model_id

    @property
    def size(self) -> tuple[int, int]:
        """The frame (H, W) of the network's input."""
        return self._models.similarity.size

    @property
    def similarity_function(self) -> SimilarityFunction:
        """What compares embeddings: "cosine", "dot" or "euclidean" (the negative distance)."""
        return self._models.bundle.similarity_function

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The attributes that it names, ``column=value``; empty for a bundle without an attribute network."""
        return self._models.bundle.vocabulary

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions of its similarity, one of which a pair must name; empty where it has none."""
        return tuple(self._models.bundle.conditions)

    def __repr__(self) -> str:
        height, width = self.size
        attributes = f"{len(self.vocabulary)} attributes"
        return f"<Bundle {self.model_id}: {height} x {width}, {self.similarity_function}, {attributes}>"

    def embed(self, images: ImageSource | Iterable[ImageSource]) -> Float32:
        """Embeddings float32 [I, D] of ``images``, in their order.

        Raises:
          whymatch.UsageError: an image cannot be read, decoded or embedded.
        """
        photographs = Photographs()
        names = photographs.add_all(images)
        frames = partial(photographs.load, resize=self._models.bundle.resize)
        found = dict(embed(names, frames, self._models, scores=False))
        rows = np.empty((len(names), self._models.similarity.dimension), np.float32)
        for row, outcome in zip(rows, map(found.__getitem__, names), strict=True):
            if isinstance(outcome, LoadFailure):
                raise UsageError(outcome.message)
            row[:] = outcome.embedding
        return rows

    def explain(
        self,
        query: ImageSource,
        references: ImageSource | Sequence[ImageSource],
        *,
        method: str | Method | Explainer = "rise",
        sides: Sequence[Side] = ("query",),
        condition: str | None = None,
        random_references: Sequence[ImageSource] = (),
        thresholds: RunThresholds | None = None,
    ) -> Explanations:
        """Why ``query`` matches each of ``references``.

        Args:
          query, references: images as addresses (local, s3://, gs://), bytes, pixels uint8 [H, W, 3], or Pillow's.
          method: the name of a saliency method (docs/methods.md), a method with its parameters such as
            ``RiseMethod(masks=256)``, or an ``Explainer``, which chooses the fill and the contrast too.
          sides: which image of each pair is explained: "query", "reference", or both.
          condition: under which of the bundle's ``conditions`` they are compared.
          random_references: 16 or more images of the catalogue, with which verdicts compare; the first 64 are used.
          thresholds: beyond which a pair is explained, from an audit of the same bundle and method:
            ``whymatch.read_run(out).thresholds``. Without them and random references nothing can be judged.

        Returns:
          An explanation of each pair and side, by the order of the references; ``failures`` are pairs of which an image
          cannot be read or explained.

        Raises:
          whymatch.UsageError: an unknown method, condition or side, or no image at all.
        """
        explainer = self._explainer(method)
        settings = ExplanationSettings((explainer,), self._checked(sides, condition))
        if thresholds is not None:
            thresholds.check(self.model_id, explainer)
        photographs = Photographs()
        name, others = photographs.add(query), photographs.add_all(references)
        if not others:
            raise UsageError("explain needs a reference at least")
        pairs = [_pair(at, name, other, condition) for at, other in enumerate(others)]
        targets = [ExplanationTarget(pair, side) for side in settings.sides for pair in pairs]
        drawn = photographs.add_all(random_references)
        load = Remembered(partial(photographs.load, resize=self._models.bundle.resize))
        counterparts = {target.counterpart for target in targets} if explainer.references else set()
        found = dict(embed([name, *others, *drawn], load, self._models, explainer.references, counterparts))
        random = NullReferences.of(one for one in map(found.get, drawn) if isinstance(one, EmbeddedImage))
        worker = ImageExplainer(settings, self._models, load, dict.fromkeys(settings.sides, random))
        outcomes = list(_explained(worker, targets, found))
        return Explanations(
            [
                PairExplanation.of(
                    row if thresholds is None else judged_row(row, thresholds.values),
                    _pictured(pairs[int(row["pair_id"])], found, photographs),
                )
                for row in _in_order(outcomes, settings.sides)
            ],
            [_failure(one, pairs[int(one.pair_id or 0)]) for one in outcomes if isinstance(one, Failure)],
        )

    def _explainer(self, method: str | Method | Explainer) -> Explainer:
        """The explainer that ``method`` names, with the networks open that it needs."""
        if isinstance(method, str):
            try:
                method = make_method(method, {})
            except ValueError as error:
                raise UsageError(str(error)) from None
        explainer = method if isinstance(method, Explainer) else Explainer(method, method.fill)
        check_settings(explainer)
        check_explainer(explainer, self._models.bundle)
        serving = self._serving.with_needs_of([explainer.method])
        if serving != self._serving:
            self._models = Models(serving)
            self._serving = serving
        return explainer

    def _checked(self, sides: Sequence[Side], condition: str | None) -> tuple[Side, ...]:
        if not sides or not set(sides) <= set(SIDES):
            raise UsageError(f"sides are among {', '.join(SIDES)}, not {sides!r}")
        if condition not in (self.conditions or (None,)):
            known = f"one of {', '.join(self.conditions)}" if self.conditions else "none: this bundle has no conditions"
            raise UsageError(f"the condition is {known}, not {condition!r}")
        return tuple(dict.fromkeys(sides))


def _explained(
    explainer: ImageExplainer,
    targets: Sequence[ExplanationTarget],
    found: Mapping[str, EmbeddedImage | LoadFailure],
) -> Iterator[tables.Row | Failure]:
    """Rows and failures of ``targets``, image by image."""
    matched: dict[str, list[Matched]] = {}
    for target in targets:
        other = found[target.counterpart]
        if isinstance(other, LoadFailure):
            yield explainer.settings.failure(target, other)
        else:
            matched.setdefault(target.explained, []).append((target, other))
    for address, some in matched.items():
        for done in explainer.explain(address, some):
            if isinstance(done, ExplainedChunk):
                yield from done.outcomes


def _in_order(outcomes: Iterable[tables.Row | Failure], sides: Sequence[Side]) -> list[tables.Row]:
    """The rows, by the order of the references and of the sides."""
    rows = [one for one in outcomes if not isinstance(one, Failure)]
    return sorted(rows, key=lambda row: (int(row["pair_id"]), sides.index(row["side"])))


def _pair(at: int, query: str, reference: str, condition: str | None) -> Pair:
    """The pair number ``at``; its ids are what a picture calls the images: the last part of an address."""
    query_id, reference_id = (public(one).rstrip("/").rpartition("/")[2] for one in (query, reference))
    return Pair(str(at), query_id, reference_id, query, reference, condition)


def _pictured(pair: Pair, found: Mapping[str, EmbeddedImage | LoadFailure], photographs: Photographs) -> Pictured:
    query, reference = (
        one.sha256 if isinstance(one := found[name], EmbeddedImage) else "" for name in (pair.query, pair.reference)
    )
    return Pictured(pair.query, pair.reference, query, reference, photographs.only(pair.query, pair.reference))


def _failure(failure: Failure, pair: Pair) -> PairFailure:
    return PairFailure(public(pair.query), public(pair.reference), failure.side, failure.reason, failure.message)
