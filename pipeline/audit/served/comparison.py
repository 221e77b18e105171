"""The first served scores of a manifest beside those that a bundle gives for the same pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline.audit.options import AuditOptions
from pipeline.audit.served.trials import pair_vectors
from pipeline.text.left_out import LeftOut
from transforms import storage
from transforms.core.errors import ModelError
from transforms.core.messages import Echo, quoted
from transforms.core.records import Failure, Float32, Float64, LoadFailure, Pair
from transforms.core.statistics.served_scores import Measures, ScoreAgreement, agreement
from transforms.inputs import catalogue, manifest, rows
from transforms.inputs.products import by_id, lacking_sides, product_id, resolve
from transforms.inputs.sampling import check_condition
from transforms.serving.bundle import Bundle
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models
from transforms.storage import shown

PAIRS = 512
"""Pairs whose served score is compared: 5 of them may be off, for a few photographs are replaced."""


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
