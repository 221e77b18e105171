"""``whymatch show``: pairs of a run with their saliency maps over the photographs, drawn from the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.results import sql
from pipeline.results.pictures import heat
from pipeline.results.pictures.sheet import CaptionLine, Cell, draw, encode, fitted
from pipeline.text.tables import printable
from transforms import storage
from transforms.core.errors import PairError, UsageError
from transforms.core.imaging import images
from transforms.core.records import Frame, Image
from transforms.core.since_audit import same_bytes
from transforms.tables import runs

PAIR_BYTES = 25_000
"""Of a picture, for each pair: six pairs are small enough for a repository."""


def draw_pairs(
    out: str,
    *,
    picture: Path,
    access: storage.Access,
    run_id: str | None = None,
    where: str | None = None,
    count: int = 6,
    spread: str | None = None,
    limits: images.ImageLimits | None = None,
) -> list[dict[str, Any]]:
    """Draws ``count`` explained pairs to ``picture`` (.png or .jpg) and returns their rows, in the order drawn.

    A pair is its query, the query under its map, the reference, and what the tables say. One pair a query, its best
    recommendation. They are spread over the values of the catalogue column ``spread``, by default over the top
    attributes, the frequent ones first, and drawn among equals by a hash of the query's id: the same tables give the
    same picture.

    Args:
      out: the folder of the tables; ``run_id``: a complete run, the one that was started last by default.
      where: a condition in SQL on the table explanations.
      access: what the images' addresses may name. An image that cannot be read, or is not the one that was audited, is
        a grey tile that says so.

    Raises UsageError for an unknown run, a condition that fails or holds for no pair, a picture that cannot be written.
    """
    images.require_safe_decoder()
    if count < 1:
        raise UsageError(f"--count must be at least 1, not {count}")
    if picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"{picture} must end in .png, .jpg or .jpeg: the extension chooses the format")
    run = runs.find(out, run_id).id
    pairs: list[dict[str, Any]] = sql.query(out, _selection(run, where, count, spread)).to_pylist()
    if not pairs:
        raise UsageError(f"no explanation of run {run} fulfils: {where or 'true'}")
    read = PhotographReader(partial(storage.read_image, access=access), limits or images.ImageLimits())
    cells = [cell_of(pair, read) for pair in pairs]
    data = encode(draw(cells), picture.suffix.lower(), PAIR_BYTES * max(6, len(pairs)))
    try:
        picture.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {picture}: {error.strerror}") from None
    return pairs


def caption(pair: Mapping[str, Any]) -> list[CaptionLine]:
    """What the tables say about a pair: ids, similarity and its condition, top attribute, if the reference has it.

    Where the run calls the pair not explained, the reason comes first.
    """
    ids = f"{printable(pair['query_id'])}  ·  {printable(pair['reference_id'])}"
    rank = "" if pair["rank"] is None else f", rank {pair['rank']}"
    of_side = " of the reference" if pair.get("side") == "reference" else ""
    method = f"  ·  {pair['method']}{of_side}"
    under = "" if (condition := pair.get("condition")) is None else f"  ·  {printable(condition)}"
    lines = [CaptionLine(ids, strong=True), CaptionLine(f"similarity {pair['similarity']:.3f}{rank}{method}{under}")]
    if not pair["top"]:
        share, area = pair["border_share"], pair["border_area"]
        return [*lines, CaptionLine(f"the border has {share:.0%} of the evidence, {area:.0%} of the area")]
    first = pair["top"][0]
    name = printable(first["name"])
    if pair.get("explained") is False:
        reason = printable(str(pair["unexplained_reason"]).replace("_", " "))
        lines.append(CaptionLine(f"NOT explained, {reason}; first {name}, match {first['match']:.2f}", warning=True))
    else:
        match = f"match with the map {first['match']:.2f}"
        lines.append(CaptionLine(f"{name}: confidence {first['confidence']:.2f}, {match}"))
    confidence = first["reference_confidence"]
    model = "" if confidence is None else f" (the model's confidence: {confidence:.2f})"
    says = {True: "has it, says the catalogue", False: "does NOT have it, says the catalogue", None: "not catalogued"}
    has = first["on_reference"]
    return [*lines, CaptionLine(f"reference: {says[has]}{model}", warning=has is False)]


def _selection(run: str, where: str | None, count: int, spread: str | None) -> str:
    kind = "coalesce(top[1].name, '')"
    if spread is not None:
        column = _quoted(f"{spread}=")
        kind = f"""coalesce((SELECT any_value([name FOR name IN attributes IF starts_with(name, {column})][1])
                             FROM products WHERE run_id = {_quoted(run)} AND product_id = query_id), '')"""
    return f"""
        WITH matching AS (
            SELECT * FROM explanations WHERE run_id = {_quoted(run)} AND ({where or "true"}
            )
        ), best AS (
            SELECT *, {kind} AS kind, md5(query_id) AS draw FROM matching
            QUALIFY 1 = row_number() OVER (
                PARTITION BY query_id
                ORDER BY rank NULLS LAST, similarity DESC, pair_id, method, side NULLS FIRST)
        ), ranked AS (
            SELECT *, count(*) OVER (PARTITION BY kind) AS of_kind,
                   row_number() OVER (PARTITION BY kind ORDER BY draw, query_id) AS turn FROM best
        ), content AS (
            SELECT address, any_value(image_sha256) AS sha256 FROM images WHERE run_id = {_quoted(run)}
            GROUP BY address HAVING count(DISTINCT image_sha256) = 1
        )
        SELECT ranked.*, q.sha256 AS query_sha256, r.sha256 AS reference_sha256
        FROM ranked LEFT JOIN content AS q ON q.address = ranked.query
                    LEFT JOIN content AS r ON r.address = ranked.reference
        ORDER BY turn, of_kind DESC, kind LIMIT {count}"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class PhotographReader:
    """Photographs by their addresses, whose bytes ``read`` reads; one that cannot be shown is the reason, as a text."""

    read: Callable[[str], bytes]
    limits: images.ImageLimits

    def __call__(self, address: str, sha256: str | None, original: tuple[int, int] | None = None) -> Image | str:
        try:
            data = self.read(address)
            if not same_bytes(sha256, images.sha256(data)):
                return "not shown: the file has changed since the audit"
            photograph = images.decode(data, self.limits)
        except PairError as error:
            return f"not shown, {error.reason}: {error}"
        if original is not None and photograph.shape[:2] != original:
            return "not shown: the image's size has changed since the audit"
        return photograph


def frame_of_row(row: Mapping[str, Any]) -> Frame:
    """How the explained image of a row of explanations lies in its photograph."""
    return Frame(
        original=(row["original_height"], row["original_width"]),
        size=(row["input_height"], row["input_width"]),
        box=(row["crop_top"], row["crop_left"], row["crop_height"], row["crop_width"]),
    )


def cell_of(pair: Mapping[str, Any], read: PhotographReader) -> Cell:
    """A row of explanations, with ``query_sha256`` and ``reference_sha256`` beside it, as a cell of the sheet."""
    frame = frame_of_row(pair)
    side = pair.get("side") or "query"
    query, reference = (
        read(pair[image], pair[f"{image}_sha256"], frame.original if image == side else None)
        for image in ("query", "reference")
    )
    explained = query if side == "query" else reference
    tiles: list[Image | str] = [query, "the map needs its photograph", reference]
    if not isinstance(explained, str):
        # scaled first: a map over a photograph of 60 megapixels would take gigabytes
        small = fitted(explained)
        saliency = np.array(pair["map"], np.float64).reshape(pair["map_height"], pair["map_width"])
        tiles[1] = heat.overlay(small, saliency, heat.scaled(frame, (small.shape[0], small.shape[1])))
    return Cell(_only_three(tiles), caption(pair))


def _only_three(tiles: Sequence[Image | str]) -> tuple[Image | str, Image | str, Image | str]:
    query, explained, reference = tiles
    return query, explained, reference
