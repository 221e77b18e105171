"""The maps of an image's pairs as rows of the table explanations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transforms import tables
from transforms.core.explanation import Explanation, NullMap, explain
from transforms.core.records import Failure
from transforms.core.saliency.contract import Maps
from transforms.explaining.image_regions import ImageRegions
from transforms.explaining.image_session import ImageSession
from transforms.explaining.prepared_image import ExplainedTargets, PreparedImage
from transforms.explaining.settings import ExplanationSettings, Matched


def explanation_rows(
    prepared: PreparedImage, matched: Sequence[Matched], regions: ImageRegions | None = None
) -> Iterator[tables.Row | Failure]:
    """A row of the table explanations, or a failure, for every one of ``matched`` and every explainer.

    ``regions`` are those that a catalogue knows of the image, if any.
    """
    settings = prepared.settings
    regions = regions or ImageRegions(None, prepared.session.image.frame)
    for explained in prepared.maps(matched):
        if isinstance(explained.maps, Maps):
            yield from _rows_of(explained, explained.maps, prepared.session, settings, regions)
        else:
            for target, _ in explained.matched:
                yield settings.failure(target, explained.maps, explained.explainer.method.name)


def _rows_of(
    explained: ExplainedTargets, maps: Maps, session: ImageSession, settings: ExplanationSettings, regions: ImageRegions
) -> Iterator[tables.Row]:
    models = session.models
    read = [regions.read(target.regions) for target, _ in explained.matched]
    explanations = explain(
        session.explained,
        explained.similarities,
        maps,
        ranking=models.bundle.ranking,
        top=settings.top,
        map_size=settings.map_size,
        regions=[None if isinstance(one, str) else one for one in read],
        null=None if explained.null is None else NullMap(explained.null, explained.explainer.contrast),
    )
    provenance = tables.Provenance(models.bundle, session.image.frame, maps.passes, models.similarity.provider)
    for (target, other), found, explanation in zip(explained.matched, read, explanations, strict=True):
        yield tables.explanation_row(
            target,
            explanation,
            explained.explainer,
            provenance,
            reference_scores=other.scores if target.side == "query" else session.explained.confidence,
            regions_failure=found if isinstance(found, str) else None,
            elsewhere=_elsewhere(explanation, models.bundle.vocabulary, regions),
        )


def _elsewhere(explanation: Explanation, vocabulary: tuple[str, ...], regions: ImageRegions) -> bool:
    if not explanation.attributes:
        return False
    return regions.evidence_elsewhere(explanation, vocabulary[explanation.attributes[0].index])
