"""What is said where a bundle does not give the scores that were served: on which pairs, and the likely causes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.audit.options import AuditOptions
from pipeline.audit.served.comparison import Compared
from pipeline.audit.served.trials import Tried, search
from transforms.core.messages import Echo, quoted
from transforms.core.records import Float64
from transforms.core.similarity import SimilarityFunction
from transforms.core.statistics.served_scores import blamed, differences, other_scale
from transforms.serving.bundle import Bundle
from transforms.serving.models import Models
from transforms.storage import shown

_MOSTLY = 0.5


def complaint(
    compared: Compared, options: AuditOptions, bundle: Bundle, files: Sequence[str], models: Models, echo: Echo
) -> str:
    """What is wrong, on which pairs, and the likely causes, those that were tried first; runs the trials."""
    found = compared.agreement
    apart = differences(compared.served, compared.recomputed)
    worst = int(np.argmax(apart))
    pair = compared.pairs[worst]
    tried = search(compared.pairs, compared.served, apart > found.tolerance, options, bundle, files, models, echo)
    ids = f"{quoted(pair.query_id)} -> {quoted(pair.reference_id)}"
    under = "" if pair.condition is None else f" under the condition {quoted(pair.condition)}"
    return " ".join(
        [
            f"this bundle does not give the scores that were served: {found.off} of {found.pairs} pairs are off by "
            f"more than {found.tolerance:g} (--score-tolerance), and at most {found.allowed} may be. Median "
            f"difference {found.median:.3g}, largest {found.largest:.3g}, rank correlation of served and recomputed "
            f"scores {told(found.rank_correlation)}.",
            f"The furthest: {ids}{under} ({shown(pair.query)}, {shown(pair.reference)}) was served with "
            f"{compared.served[worst]:.6g}, this bundle gives {compared.recomputed[worst]:.6g}.",
            *_causes(compared, apart, tried, bundle),
        ]
    )


def told(correlation: float | None) -> str:
    """A rank correlation in a message."""
    return "not defined" if correlation is None else f"{correlation:.4f}"


def _causes(compared: Compared, apart: Float64, tried: Tried, bundle: Bundle) -> Iterator[str]:
    function = bundle.similarity_function
    if tried.fits:
        yield from _what_fits(tried, function)
        return
    line = other_scale(compared.served, compared.recomputed)
    if line is not None:
        yield (
            "Likely cause: the served scores are this similarity on another scale: they order the pairs as this bundle "
            f"does, {'in reverse, ' * (line.slope < 0)}and are about {line.slope:.4g} * similarity "
            f"{'+' if line.shift >= 0 else '-'} {abs(line.shift):.4g} (median residual {line.residual:.2g}). Write "
            "similarities of the bundle's kind into the manifest."
        )
    yield from _what_was_tried(tried, function)
    yield from _what_is_stale(compared, apart, on_another_scale=line is not None)


def _what_fits(tried: Tried, function: SimilarityFunction) -> Iterator[str]:
    best = tried.fits[0]
    yield (
        f"Likely cause: the served scores fit this bundle {best.described(function)} (median difference "
        f"{best.agreement.median:.2g} over the {best.agreement.pairs} pairs that were tried)."
    )
    if len(tried.fits) > 1:
        others = "; ".join(one.described(function) for one in tried.fits[1:3])
        yield f"Nearly as good: {others}."
    yield (
        "Make the bundle so with `whymatch bundle`, or `whymatch export`."
        if best.setting
        else "The network itself agrees."
    )


def _what_was_tried(tried: Tried, function: SimilarityFunction) -> Iterator[str]:
    yield (
        f"None of the {tried.count} other settings of channel order, normalisation, resize, interpolation and "
        f"similarity function that were tried on {tried.pairs} pairs, one and two at a time, fits."
    )
    near = tried.nearest
    if near is not None and near.agreement.median / near.unit < tried.before.median / 2:
        yield (
            f"The nearest: {near.described(function)}, with {near.agreement.off} of {near.agreement.pairs} still off "
            f"(median difference {near.agreement.median:.2g}, before {tried.before.median:.2g})."
        )


def _what_is_stale(compared: Compared, apart: Float64, *, on_another_scale: bool) -> Iterator[str]:
    off = apart > compared.agreement.tolerance
    model = blamed([pair.served_model for pair in compared.pairs], off)
    if model is not None:
        yield f"All pairs that are off have the served_model {quoted(model)}, and those of others agree."
    elif off.mean() <= _MOSTLY:
        yield (
            f"{1 - off.mean():.0%} of the pairs agree, so the bundle is right for these: the other scores are probably "
            "stale, of an earlier version of the model or of photographs that have been replaced since."
        )
    elif not on_another_scale:
        yield (
            "Then likely: a stale index, with scores of another version of the model or of photographs that have been "
            "replaced since; a bundle of other weights; or a service that does what was not tried: a resize without "
            "antialias (OpenCV, tensors), another input size, no EXIF orientation, a quantised index."
        )
