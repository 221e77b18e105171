"""Is this the model that served? The first scored pairs of a manifest are recomputed before anything is explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline.audit.check_trials import Tried, pair_vectors, search
from pipeline.audit.options import AuditOptions
from pipeline.text.left_out import LeftOut
from transforms import storage
from transforms.core.errors import ModelError, UsageError
from transforms.core.messages import quoted
from transforms.core.records import Failure, Float32, Float64, LoadFailure, Pair
from transforms.core.statistics.served_scores import (
    Measures,
    ScoreAgreement,
    agreement,
    blamed,
    differences,
    other_scale,
)
from transforms.inputs import catalogue, manifest, rows
from transforms.inputs.products import by_id, lacking_sides, product_id, resolve
from transforms.inputs.sampling import check_condition
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import resolve_device
from transforms.storage import shown

Echo = Callable[[str], None]

PAIRS = 512
"""Pairs whose served score is compared: 5 of them may be off, for a few photographs are replaced."""

_MOSTLY = 0.5


def check_served(options: AuditOptions, bundle: Bundle, files: tuple[str, ...], models: Models, echo: Echo) -> None:
    """Compares the first ``PAIRS`` served scores of the manifest ``files`` with ``bundle``'s, which ``models`` holds.

    Says in a line how they agree, or that nothing could be checked. UsageError where more than ``MOST_OFF`` of
    them, and at least ``FEWEST_OFF`` or all, are off by more than ``options.score_tolerance``; it says what would make
    them fit.
    """
    compared = compare(options, bundle, files, models, echo)
    if not compared.pairs:
        echo(f"served scores: {compared.nothing}, so whether this bundle is the model that served is not checked")
        return
    for line in compared.left_out_lines():
        echo(line)
    found = compared.agreement
    if found.refused:
        raise UsageError(complaint(compared, options, bundle, files, models, echo))
    echo(
        f"served scores: {found.pairs} pairs recomputed, {found.off} off by more than {found.tolerance:g} (median "
        f"difference {found.median:.2g}, largest {found.largest:.2g})"
    )


def check(options: AuditOptions, most: int, echo: Echo) -> Compared:
    """``whymatch check``: the comparison alone, of the first ``most`` served scores, and how they differ.

    UsageError where they do not agree, and where none could be compared: nothing checked is no assurance.
    """
    if most < 1:
        raise UsageError(f"--pairs must be at least 1, not {most}")
    bundle = bundles.read(options.bundle)
    files = tuple(file for pattern in options.manifest for file in storage.expand(pattern))
    for file in files:
        manifest.check_header(file, columns=options.columns, has_catalogue=options.catalogue is not None)
    if options.catalogue is not None:
        catalogue.check_header(options.catalogue)
    device = resolve_device(options.device)
    models = Models(Serving(options.bundle, device, options.threads, options.batch, attributes=False))
    compared = compare(options, bundle, files, models, echo, most)
    if not compared.pairs:
        raise UsageError(f"{compared.nothing}: whether this bundle is the model that served is not known")
    for line in (*compared.left_out_lines(), *_distribution(compared)):
        echo(line)
    if compared.agreement.refused:
        raise UsageError(complaint(compared, options, bundle, files, models, echo))
    echo(f"this bundle ({bundle.model_id}) gives the scores that were served")
    return compared


def _distribution(compared: Compared) -> list[str]:
    found = compared.agreement
    return [
        f"compared: {found.pairs} pairs, {found.off} off by more than {found.tolerance:g}",
        f"absolute difference: median {found.median:.3g}, 95th percentile {found.p95:.3g}, largest {found.largest:.3g}",
        f"rank correlation of served and recomputed scores: {told(found.rank_correlation)}",
    ]


@dataclass(frozen=True)
class Compared:
    """``pairs`` with a served score, ``served`` [P], and the embeddings [P, D] of both images as they are compared.

    ``nothing`` says why there are no pairs, where there are none.
    """

    pairs: tuple[Pair, ...]
    served: Float64
    queries: Float32
    references: Float32
    recomputed: Float64
    agreement: ScoreAgreement
    left_out: LeftOut
    nothing: str = ""

    def left_out_lines(self) -> list[str]:
        """One line a reason."""
        counts, first = self.left_out.counts, self.left_out.first
        return [
            f"served scores: {count} pair{'s' * (count != 1)} could not be compared ({why}), the first: {first[why]}"
            for why, count in sorted(counts.items())
        ]


def compare(
    options: AuditOptions, bundle: Bundle, files: Sequence[str], models: Models, echo: Echo, most: int = PAIRS
) -> Compared:
    """The comparison of the first ``most`` pairs with a served score, in the order of ``files`` and of their rows.

    Manifest files are read up to there, the catalogue once, and images are held for one batch only.
    """
    left_out = LeftOut()
    column = options.columns.get("served_score", "served_score")
    scored = [file for file in files if column in rows.header(file)]
    if not scored:
        return _nothing(f"the manifest has no column {quoted(column)}", left_out)
    first = list(islice(_scored(scored, options, bundle), most))
    if not first:
        return _nothing(f"the column {quoted(column)} of the manifest has no value", left_out)
    resolved = list(_resolved(first, options.catalogue, left_out))
    load = ImageLoader(options.access(tuple(files)), options.limits(), bundle.resize)
    addresses = list(dict.fromkeys(address for pair in resolved for address in (pair.query, pair.reference)))
    if addresses:
        echo(f"served scores: embedding {len(addresses)} images of {len(resolved)} pairs, to compare")
    vectors: dict[str, Float32] = {}
    failed: dict[str, LoadFailure] = {}
    for address, outcome in embed(addresses, load, models, scores=False):
        if isinstance(outcome, LoadFailure):
            failed[address] = outcome
        else:
            vectors[address] = outcome.embedding
    pairs = []
    for pair in resolved:
        for address in (pair.query, pair.reference):
            if address in failed:
                left_out.add(failed[address].reason, _named(address, failed[address]))
                break
        else:
            pairs.append(pair)
    if not pairs:
        return _nothing(f"none of {len(first)} pairs with a served score could be compared", left_out)
    queries, references = pair_vectors(pairs, vectors, bundle)
    served = np.array([pair.served_score for pair in pairs], np.float64)
    recomputed = Measures.of(queries, references).score(bundle.similarity_function)
    found = agreement(served, recomputed, options.score_tolerance)
    return Compared(tuple(pairs), served, queries, references, recomputed, found, left_out)


def _nothing(why: str, left_out: LeftOut) -> Compared:
    none, empty = np.zeros(0), np.zeros((0, 0), np.float32)
    reasons = "".join(
        f"; {count} {reason}, the first: {left_out.first[reason]}" for reason, count in left_out.counts.items()
    )
    return Compared(
        (), none, empty, empty, none, ScoreAgreement(0, 0, 0.0, 0.0, 0.0, None, 0.0), left_out, why + reasons
    )


def _scored(files: Iterable[str], options: AuditOptions, bundle: Bundle) -> Iterator[Pair]:
    """Readable pairs with a served score, each pair id once; bad rows are the audit's to report."""
    seen: set[str] = set()
    for file in files:
        for item in manifest.read(file, columns=options.columns):
            if not isinstance(item, Pair) or item.served_score is None or item.pair_id in seen:
                continue
            if isinstance(check_condition(item, tuple(bundle.conditions)), Failure):
                continue
            seen.add(item.pair_id)
            yield item


def _named(address: str, failure: LoadFailure) -> str:
    """A failure's message with the image that it is of: what the network says of one does not name it."""
    return f"{shown(address)}: {failure.message}" if failure.stage == ModelError.stage else failure.message


def _resolved(pairs: Sequence[Pair], address: str | None, left_out: LeftOut) -> Iterator[Pair]:
    """``pairs`` with the addresses of both images; of the catalogue only the products that they name are held."""
    lacking = {pair: lacking_sides(pair) for pair in pairs}
    wanted = {product_id(pair, side) for pair, sides in lacking.items() for side in sides}
    products = by_id(catalogue.read(address, columns=()), wanted) if wanted and address is not None else {}
    for pair, sides in lacking.items():
        found: Pair | Failure = pair
        for side in sides:
            if isinstance(found, Pair):
                found = resolve(found, products.get(product_id(pair, side), ()), side)
        if isinstance(found, Pair):
            yield found
        else:
            left_out.add(found.reason, storage.redact(found.message))


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
    found, function = compared.agreement, bundle.similarity_function
    if tried.fits:
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
        return
    line = other_scale(compared.served, compared.recomputed)
    if line is not None:
        yield (
            "Likely cause: the served scores are this similarity on another scale: they order the pairs as this bundle "
            f"does, {'in reverse, ' * (line.slope < 0)}and are about {line.slope:.4g} * similarity "
            f"{'+' if line.shift >= 0 else '-'} {abs(line.shift):.4g} (median residual {line.residual:.2g}). Write "
            "similarities of the bundle's kind into the manifest."
        )
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
    off = apart > found.tolerance
    model = blamed([pair.served_model for pair in compared.pairs], off)
    if model is not None:
        yield f"All pairs that are off have the served_model {quoted(model)}, and those of others agree."
    elif off.mean() <= _MOSTLY:
        yield (
            f"{1 - off.mean():.0%} of the pairs agree, so the bundle is right for these: the other scores are probably "
            "stale, of an earlier version of the model or of photographs that have been replaced since."
        )
    elif line is None:
        yield (
            "Then likely: a stale index, with scores of another version of the model or of photographs that have been "
            "replaced since; a bundle of other weights; or a service that does what was not tried: a resize without "
            "antialias (OpenCV, tensors), another input size, no EXIF orientation, a quantised index."
        )
