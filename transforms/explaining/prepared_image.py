"""An image explained against its references: one set of forward passes serves them all.

It serves them under whatever conditions of the similarity they are compared. References are estimated condition by
condition, so that no more than one condition's embeddings are held beside the network's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transforms.core.errors import NonFiniteMap, PairError
from transforms.core.records import Float64, Side
from transforms.core.saliency.contract import Maps, Saliency
from transforms.core.saliency.explainer import Explainer
from transforms.core.statistics.nulls import NullReferences
from transforms.explaining.comparisons import Comparisons
from transforms.explaining.image_session import ImageSession, SessionView
from transforms.explaining.null_statistics import NullStatistic, shuffled_statistics
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.serving.load_image import Load, LoadedImage
from transforms.serving.models import Models

NO_NULLS: Mapping[Side, NullReferences] = {}


@dataclass(frozen=True, eq=False)
class ExplainedTargets:
    """What ``explainer`` says of the R targets of ``matched``, all of one condition, or why it says nothing.

    ``similarities`` is float64 [R], ``null`` [1, H, W] the map for the mean of random references, None without any.
    """

    explainer: Explainer
    matched: Sequence[Matched]
    similarities: Float64
    maps: Maps | PairError
    null: Float64 | None = None


class PreparedImage:
    """An image after the passes that serve all of its references, which are run when it is made.

    Made by :meth:`of`. Each explainer has found out what it can before it sees a reference, or says why not; what it
    found is of the network's own embeddings, and that of a condition is made from the same passes when it is asked for.
    """

    def __init__(
        self, settings: ExplanationSettings, comparisons: Comparisons, saliencies: tuple[Saliency | PairError, ...]
    ) -> None:
        self.settings, self.comparisons = settings, comparisons
        self._saliencies = saliencies
        self._null_maps: dict[tuple[int, Side, str | None], Float64 | None] = {}

    @classmethod
    def of(
        cls,
        image: LoadedImage,
        settings: ExplanationSettings,
        models: Models,
        load: Load,
        matched: Sequence[Matched] = (),
        nulls: Mapping[Side, NullReferences] = NO_NULLS,
    ) -> PreparedImage:
        """Runs the passes; raises PairError where not even the whole image can be embedded.

        ``matched`` are all references, for explainers that stop when their maps for all of them have converged.
        ``nulls`` are random references of each side.
        """
        session = ImageSession(image, models)
        _ = session.base
        comparisons = Comparisons(session, load, nulls)
        saliencies = (_prepare(comparisons, explainer, matched) for explainer in settings.explainers)
        return cls(settings, comparisons, tuple(saliencies))

    @property
    def session(self) -> ImageSession:
        return self.comparisons.session

    @property
    def passes(self) -> int:
        """Forward passes so far."""
        return self.session.passes

    def maps(self, matched: Sequence[Matched]) -> Iterator[ExplainedTargets]:
        """The maps of every one of ``matched`` and every explainer, or why there are none."""
        for condition, side in dict.fromkeys((target.pair.condition, target.side) for target, _ in matched):
            some = [one for one in matched if (one[0].pair.condition, one[0].side) == (condition, side)]
            similarities = self.comparisons.similarities(some, condition)
            for at, (explainer, saliency) in enumerate(self.saliencies(condition)):
                if isinstance(saliency, PairError):
                    yield ExplainedTargets(explainer, some, similarities, saliency)
                else:
                    null = self._null_map(at, saliency, side, condition)
                    yield from self._maps_of(explainer, saliency, some, similarities, null)

    def null_statistics(self, compared: Iterable[tuple[str | None, Side]]) -> Iterator[NullStatistic]:
        """The statistics of this image's shuffled pairs, by which an explanation is judged.

        ``compared`` are the conditions and sides under which it is explained.
        """
        for condition, side in compared:
            shuffled = self.comparisons.shuffled(side, condition)
            if shuffled is None:
                continue
            for explainer, saliency in self.saliencies(condition):
                if isinstance(saliency, PairError) or not explainer.compares_freely:
                    continue
                references = self.comparisons.contrasted(explainer, shuffled, side, condition)
                for statistic, values in shuffled_statistics(self.session, saliency, references).items():
                    yield NullStatistic(explainer.method.name, side, statistic, values)

    def saliencies(self, condition: str | None) -> Iterator[tuple[Explainer, Saliency | PairError]]:
        """Each explainer with what it found out about the image as ``condition`` compares it, made when asked for."""
        for explainer, saliency in zip(self.settings.explainers, self._saliencies, strict=True):
            if condition is None or isinstance(saliency, PairError):
                yield explainer, saliency
            else:
                yield explainer, _prepare(self.comparisons, explainer, condition=condition)

    def _null_map(self, at: int, saliency: Saliency, side: Side, condition: str | None) -> Float64 | None:
        """The map [1, H, W] for the mean of random references, made once; None where that costs passes, or fails."""
        key = (at, side, condition)
        if key not in self._null_maps:
            free = self.settings.explainers[at].compares_freely
            null = self.comparisons.null(side, condition) if free else None
            try:
                found = None if null is None else saliency.maps(null).saliency
            except PairError:
                found = None
            self._null_maps[key] = found if found is not None and np.isfinite(found).all() else None
        return self._null_maps[key]

    def _maps_of(
        self,
        explainer: Explainer,
        saliency: Saliency,
        matched: Sequence[Matched],
        similarities: Float64,
        null: Float64 | None,
    ) -> Iterator[ExplainedTargets]:
        try:
            maps = saliency.maps(self.comparisons.references(explainer, matched))
            if not np.isfinite(maps.saliency).all():
                raise NonFiniteMap(f"the map of {explainer.method.name} holds NaN or infinity")
        except PairError as error:
            if len(matched) == 1:
                yield ExplainedTargets(explainer, matched, similarities, error)
                return
            # one reference must not take the others with it
            for at, one in enumerate(matched):
                yield from self._maps_of(explainer, saliency, [one], similarities[at : at + 1], null)
            return
        yield ExplainedTargets(explainer, matched, similarities, maps, null)


def _prepare(
    comparisons: Comparisons, explainer: Explainer, matched: Sequence[Matched] = (), condition: str | None = None
) -> Saliency | PairError:
    try:
        references = comparisons.references(explainer, matched) if matched and explainer.converges else None
        return explainer.method.prepare(SessionView(comparisons.session, explainer.fill, condition), references)
    except PairError as error:
        return error
