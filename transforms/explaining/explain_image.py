"""An image explained against its references: one set of forward passes serves them all.

It serves them under whatever conditions of the similarity they are compared: a condition multiplies embeddings, which
are the network's. References are estimated condition by condition, so that no more than one condition's embeddings are
held beside the network's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from transforms import tables
from transforms.core.attributes.ranking import rank_attributes
from transforms.core.errors import NonFiniteMap, NoNull, PairError
from transforms.core.explanation import Explanation, NullMap, Regions, explain
from transforms.core.imaging.fill import make_fill
from transforms.core.records import EmbeddedImage, Failure, Float32, Float64, LoadFailure, Side, content_id
from transforms.core.saliency.contract import Gradient, Maps, References, Saliency
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.perturbation import Perturbation
from transforms.core.similarity import conditioned, for_condition, similarities
from transforms.core.statistics import nulls
from transforms.core.statistics.nulls import NullReferences, Statistic
from transforms.core.target import ExplanationTarget
from transforms.explaining.image_session import ImageSession, SessionView
from transforms.inputs.region_files import RegionReader
from transforms.serving.load_image import Load, LoadedImage
from transforms.serving.models import Models


@dataclass(frozen=True)
class ExplanationSettings:
    """What to explain and with what: the explainers, which of a pair's images, how many attributes to keep, and the
    size of the stored map."""

    explainers: tuple[Explainer, ...]
    sides: tuple[Side, ...] = ("query",)
    top: int = 5
    map_size: tuple[int, int] = (28, 28)

    def failure(self, target: ExplanationTarget, error: PairError | LoadFailure, method: str | None = None) -> Failure:
        """The failure of ``task``, of all methods where none is named."""
        side = target.side if len(self.sides) > 1 else None
        return replace(Failure.of(target.pair, error), side=side, method=method if len(self.explainers) > 1 else None)

    def stands_for(self, failure: Failure) -> int:
        """How many explanations a failure says are missing."""
        methods = len(self.explainers) if failure.method is None else 1
        return methods * (len(self.sides) if failure.side is None else 1)


Matched = tuple[ExplanationTarget, EmbeddedImage]
"""A task with the other image of its pair."""


@dataclass(frozen=True, eq=False)
class ExplainedTargets:
    """What ``explainer`` says of the R tasks of ``matched``, all of one condition, or why it says nothing.

    ``similarities`` is float64 [R], ``null`` [1, H, W] the map for the mean of random references, None without any.
    """

    explainer: Explainer
    matched: Sequence[Matched]
    similarities: Float64
    maps: Maps | PairError
    null: Float64 | None = None


@dataclass(frozen=True, slots=True)
class NullStatistic:
    """``values`` of a statistic of shuffled pairs of an image, under one explainer and for one side."""

    method: str
    side: Side
    statistic: Statistic
    values: tuple[float, ...]


EVERYWHERE = 0.99
"""The share of a frame's area from which an attribute counts as seen everywhere."""

NO_NULLS: Mapping[Side, NullReferences] = {}


@dataclass(frozen=True)
class PreparedImage:
    """An image after the passes that serve all of its references.

    ``saliencies`` has one for every explainer, or why there is none. They are of the network's own embeddings; those of
    a condition are made from the same passes, when its references are there. ``nulls`` are random references of each
    side, which cost no passes where a method compares with any vector; ``regions`` reads what a catalogue knows.
    """

    session: ImageSession
    explaining: ExplanationSettings
    load: Load
    saliencies: tuple[Saliency | PairError, ...]
    nulls: Mapping[Side, NullReferences] = field(default_factory=dict)
    regions: RegionReader | None = None
    _null_maps: dict[tuple[int, Side, str | None], Float64 | None] = field(default_factory=dict, repr=False)
    _read: dict[str, Regions | str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        image: LoadedImage,
        explaining: ExplanationSettings,
        models: Models,
        load: Load,
        matched: Sequence[Matched] = (),
        nulls: Mapping[Side, NullReferences] = NO_NULLS,
        regions: RegionReader | None = None,
    ) -> PreparedImage:
        """Runs the passes; raises PairError where not even the whole image can be embedded.

        ``matched`` are all references, for explainers that stop when their maps for all of them have converged.
        """
        session = ImageSession(image, models)
        _ = session.base
        made = cls(session, explaining, load, (), nulls, regions)
        return replace(made, saliencies=tuple(made._prepare(explainer, matched) for explainer in explaining.explainers))

    @property
    def passes(self) -> int:
        """Forward passes so far."""
        return self.session.passes

    def rows(self, matched: Sequence[Matched]) -> Iterator[tables.Row | Failure]:
        """A row of the table explanations, or a failure, for every one of ``matched`` and every explainer."""
        for explained in self.maps(matched):
            if isinstance(explained.maps, PairError):
                for target, _ in explained.matched:
                    yield self.explaining.failure(target, explained.maps, explained.explainer.method.name)
            else:
                yield from self._rows_of(explained, explained.maps)

    def maps(self, matched: Sequence[Matched]) -> Iterator[ExplainedTargets]:
        """The maps of every one of ``matched`` and every explainer, or why there are none."""
        function = self.session.models.bundle.similarity_function
        for condition, side in dict.fromkeys((target.pair.condition, target.side) for target, _ in matched):
            some = [one for one in matched if (one[0].pair.condition, one[0].side) == (condition, side)]
            base = conditioned(self.session.base, self.session.mask(condition), function)
            found = similarities(self._embeddings(some, condition), base, function)[:, 0]
            for at, (explainer, saliency) in enumerate(self._saliencies(condition)):
                null = self._null_map(at, explainer, saliency, side, condition)
                yield from self._maps_of(explainer, saliency, some, found, null)

    def null_statistics(self, compared: Iterable[tuple[str | None, Side]]) -> Iterator[NullStatistic]:
        """The statistics of this image's shuffled pairs, by which an explanation is judged (``core.nulls``).

        ``compared`` are the conditions and sides under which it is explained.
        """
        session, bundle = self.session, self.session.models.bundle
        for condition, side in compared:
            others = self._random(side, condition)
            if others is None:
                continue
            base = conditioned(session.base, session.mask(condition), bundle.similarity_function)
            shuffled = nulls.shuffled(others, base, bundle.similarity_function)
            if not len(shuffled):
                continue
            for explainer, saliency in self._saliencies(condition):
                if isinstance(saliency, PairError) or not compares_freely(explainer):
                    continue
                references = self._contrasted(explainer, References(shuffled), side, condition)
                for statistic, values in self._chance(saliency, references).items():
                    yield NullStatistic(explainer.method.name, side, statistic, values)

    def _chance(self, saliency: Saliency, references: References) -> dict[Statistic, tuple[float, ...]]:
        session, found = self.session, dict[Statistic, tuple[float, ...]]()
        try:
            maps = saliency.maps(references).saliency
        except PairError:
            return found
        maps = maps[np.isfinite(maps).all(axis=(1, 2))]
        image, ranking = session.explained, session.models.bundle.ranking
        if image.confidence is not None and image.activations is not None:
            first = [rank_attributes(image.confidence, image.activations, one, ranking, 1)[0].score for one in maps]
            found["attribute_score"] = tuple(first)
        if isinstance(saliency, Perturbation):
            seed = int(content_id("chance", session.image.sha256, letter="")[:12], 16)
            by_chance = saliency.reliability_by_chance(references, seed)
            if by_chance is not None:
                found["map_reliability"] = tuple(float(value) for value in by_chance)
        return found

    def _random(self, side: Side, condition: str | None) -> Float32 | None:
        """Random references' embeddings [K, D] as ``condition`` compares them, None without any."""
        drawn = self.nulls.get(side)
        others = drawn.others(self.session.image.sha256) if drawn else None
        if others is None:
            return None
        return conditioned(others, self.session.mask(condition), self.session.models.bundle.similarity_function)

    def _null_map(
        self, at: int, explainer: Explainer, saliency: Saliency | PairError, side: Side, condition: str | None
    ) -> Float64 | None:
        """The map [1, H, W] for the mean of random references, made once; None where that costs passes, or fails."""
        key = (at, side, condition)
        if key not in self._null_maps:
            self._null_maps[key] = None
            others = self._random(side, condition)
            if others is not None and not isinstance(saliency, PairError) and compares_freely(explainer):
                try:
                    null = saliency.maps(nulls.mean_of(others, self.session.models.bundle.similarity_function)).saliency
                    self._null_maps[key] = null if np.isfinite(null).all() else None
                except PairError:
                    pass
        return self._null_maps[key]

    def _contrasted(
        self, explainer: Explainer, references: References, side: Side, condition: str | None
    ) -> References:
        """``references``, less the mean of random ones where ``explainer`` asks; NoNull where these are too few."""
        if not explainer.contrast:
            return references
        others = self._random(side, condition)
        if others is None:
            raise NoNull(
                f"a contrast needs {nulls.LEAST} random references, and of those that were drawn fewer could be "
                "embedded; the row of the run says how many"
            )
        return nulls.contrasted(references, nulls.mean_of(others, self.session.models.bundle.similarity_function))

    def _saliencies(self, condition: str | None) -> Iterator[tuple[Explainer, Saliency | PairError]]:
        """Each explainer with what it found out about the image as ``condition`` compares it, made when asked for."""
        for explainer, saliency in zip(self.explaining.explainers, self.saliencies, strict=True):
            if condition is None or isinstance(saliency, PairError):
                yield explainer, saliency
            else:
                yield explainer, self._prepare(explainer, condition=condition)

    def _prepare(
        self, explainer: Explainer, matched: Sequence[Matched] = (), condition: str | None = None
    ) -> Saliency | PairError:
        try:
            references = self._references(explainer, matched) if matched and explainer.converges else None
            return explainer.method.prepare(SessionView(self.session, explainer.fill, condition), references)
        except PairError as error:
            return error

    def _maps_of(
        self,
        explainer: Explainer,
        saliency: Saliency | PairError,
        matched: Sequence[Matched],
        found: Float64,
        null: Float64 | None,
    ) -> Iterator[ExplainedTargets]:
        if isinstance(saliency, PairError):
            yield ExplainedTargets(explainer, matched, found, saliency)
            return
        try:
            maps = saliency.maps(self._references(explainer, matched))
            if not np.isfinite(maps.saliency).all():
                raise NonFiniteMap(f"the map of {explainer.method.name} holds NaN or infinity")
        except PairError as error:
            if len(matched) == 1:
                yield ExplainedTargets(explainer, matched, found, error)
                return
            # one reference must not take the others with it
            for at, one in enumerate(matched):
                yield from self._maps_of(explainer, saliency, [one], found[at : at + 1], null)
            return
        yield ExplainedTargets(explainer, matched, found, maps, null)

    def _rows_of(self, explained: ExplainedTargets, maps: Maps) -> Iterator[tables.Row]:
        models = self.session.models
        read = [self._regions_of(target.regions) for target, _ in explained.matched]
        explanations = explain(
            self.session.explained,
            explained.similarities,
            maps,
            ranking=models.bundle.ranking,
            top=self.explaining.top,
            map_size=self.explaining.map_size,
            regions=[None if isinstance(one, str) else one for one in read],
            null=None if explained.null is None else NullMap(explained.null, explained.explainer.contrast),
        )
        for (target, other), regions, explanation in zip(explained.matched, read, explanations, strict=True):
            yield tables.explanation_row(
                target,
                explanation,
                explained.explainer,
                tables.Provenance(models.bundle, self.session.image.frame, maps.passes, models.similarity.provider),
                reference_scores=other.scores if target.side == "query" else self.session.explained.confidence,
                regions_failure=regions if isinstance(regions, str) else None,
                elsewhere=self._elsewhere(explanation),
            )

    def _regions_of(self, source: str | None) -> Regions | str | None:
        """The image's regions as ``source`` gives them, a reason code where it cannot be read, None without one."""
        if source is None or self.regions is None:
            return None
        if source not in self._read:
            try:
                found = self.regions.frame(source, self.session.image.frame)
                self._read[source] = found.labels, found.names
            except PairError as error:
                self._read[source] = error.reason
        return self._read[source]

    def _elsewhere(self, explanation: Explanation) -> bool:
        """Whether the regions that, as the legend says, show the first attribute hold no more of the evidence than of
        the area: no more than a map that knows nothing would leave there."""
        if self.regions is None or not explanation.attributes:
            return False
        first = self.session.models.bundle.vocabulary[explanation.attributes[0].index]
        shown = {region.name: self.regions.legend.shows(region.name, first) for region in explanation.regions}
        if all(shows is None for shows in shown.values()):
            return False
        visible = [region for region in explanation.regions if shown[region.name]]
        area = sum(region.area for region in visible)
        # where it is seen everywhere, evidence cannot lie elsewhere; sums of shares are not exact
        return area < EVERYWHERE and sum(region.share for region in visible) <= area + 1e-9

    def _embeddings(self, matched: Sequence[Matched], condition: str | None) -> Float32:
        """The other images' embeddings [R, D], as ``condition`` compares them."""
        rows = np.stack([other.embedding for _, other in matched])
        return conditioned(rows, self.session.mask(condition), self.session.models.bundle.similarity_function)

    def _versions(self, kept: Float32, condition: str | None) -> Float32:
        """What of the masked versions that an image kept ``condition`` compares, [K, D]."""
        bundle = self.session.models.bundle
        names = tuple(bundle.conditions)
        if not names:
            return kept
        mask = self.session.mask(condition)
        return for_condition(kept, mask, names.index(condition), len(names), bundle.similarity_function)

    def _references(self, explainer: Explainer, matched: Sequence[Matched]) -> References:
        """The other images of ``matched``, all of one condition."""
        target = matched[0][0]
        condition = target.pair.condition
        embeddings = self._embeddings(matched, condition)
        if explainer.perturb == "query":
            return self._contrasted(explainer, References(embeddings), target.side, condition)
        kept = [other.perturbed for _, other in matched if other.perturbed is not None and explainer.references]
        versions = [self._versions(some, condition) for some in kept]

        def gradients(start: int, stop: int) -> Gradient:
            pixels = [self.load(target.counterpart).pixels for target, _ in matched[start:stop]]
            mean = self.session.models.bundle.fill_mean
            fills = np.concatenate([make_fill(explainer.fill, image, mean) for image in pixels])
            return self.session.gradient(np.stack(pixels), fills, condition)

        # a run of Mask alone masks no references by anything but what it optimises
        perturbed = np.stack(versions) if versions else None
        passes = explainer.references.masks if explainer.references else 0
        return self._contrasted(explainer, References(embeddings, perturbed, passes, gradients), target.side, condition)


def compares_freely(explainer: Explainer) -> bool:
    """Whether the method compares the image with any vector at no passes of its own."""
    return explainer.perturb == "query" and explainer.method.needs in ("masks", "superpixels", "projection")
