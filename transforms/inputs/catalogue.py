"""The catalogue: products with their image and their attributes, read as a stream from CSV, JSON lines or Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from transforms import storage
from transforms.core import messages
from transforms.core.errors import BadRow, UsageError
from transforms.core.messages import quoted
from transforms.core.records import Failure, Product
from transforms.inputs import rows
from transforms.inputs.cells import NonTextCell
from transforms.inputs.region_boxes import BOXES_EXAMPLE, MAX_BOXES_TEXT

ID, IMAGE, SPLIT, REGIONS, BOXES = "id", "image", "split", "regions", "boxes"
_RESERVED = (ID, IMAGE, SPLIT, REGIONS, BOXES)


@dataclass(frozen=True)
class Vocabulary:
    """The attributes that a catalogue offers to an attribute network.

    ``names`` are ``column=value``. ``left_out`` maps each name that is too rare to the number of its products,
    ``columns_left_out`` each column that is not categorical to the reason, as a phrase.
    """

    names: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    columns_left_out: dict[str, str] = field(default_factory=dict)


def read(address: str, *, columns: Sequence[str] | None = None) -> Iterator[Product | Failure]:
    """Yields one :class:`Product`, or a :class:`Failure` of stage read, for every row of the catalogue at ``address``.

    Args:
        address: a file with the columns ``id``, ``image`` (relative to the file, or absolute) and perhaps ``split``,
            ``regions``: the label image of the product's photograph, an address like ``image``, and ``boxes``: boxes
            around its regions, as JSON text. See :mod:`transforms.inputs.region_boxes`.
        columns: the attribute columns in the wanted order; None for all the others, save lists and objects.

    All rows of one id are yielded: which pairs that makes ambiguous is decided where they are joined. What a value
    may say as an attribute is decided by :func:`vocabulary`. What the text of ``boxes`` says is looked at where the
    photograph is explained, so that wrong boxes do not cost the product; a cell that is no text fails its row.

    Raises:
        UsageError: columns are missing, ``regions`` or ``boxes`` is among ``columns``, or the file cannot be read.
    """
    check_header(address, columns=columns)
    named = (*_RESERVED, *(columns or ()))
    for row in rows.read_rows(address, named, rest=columns is None):
        try:
            yield _product(row, address, columns)
        except BadRow as error:
            yield Failure(None, None, None, error.stage, error.reason, str(error), error.retryable, row.source)


def check_header(address: str, *, columns: Sequence[str] | None = None) -> None:
    """UsageError where the catalogue at ``address`` lacks ``id``, ``image`` or one of ``columns``, or where one of
    these is ``regions`` or ``boxes``."""
    for column, holds in ((REGIONS, "the address of a product's label image"), (BOXES, "boxes around its regions")):
        if column in (columns or ()):
            raise UsageError(
                f"the column {column!r} of a catalogue holds {holds} and is no attribute; "
                "leave it out of the columns, or give it another name if it means something else"
            )
    found = rows.header(address)
    if missing := [column for column in (ID, IMAGE, *(columns or ())) if column not in found]:
        raise UsageError(
            f"the catalogue {rows.file_name(address)} has no column {' and no column '.join(map(quoted, missing))}. "
            f"It needs 'id', 'image' and its attributes; its columns are {messages.listed(found)}."
        )


def _product(row: rows.Row | rows.UnreadableRow, address: str, columns: Sequence[str] | None) -> Product:
    if isinstance(row, rows.UnreadableRow):
        raise BadRow(row.message)
    product_id, image = rows.identity(row, ID), rows.text(row, IMAGE)
    if product_id is None or image is None:
        raise BadRow(f"the product has no {ID if product_id is None else IMAGE}")
    regions = rows.text(row, REGIONS)
    attributes = columns if columns is not None else [column for column in row.cells if column not in _RESERVED]
    return Product(
        id=product_id,
        image=storage.resolve(image, address),
        attributes=tuple((column, str(value)) for column in attributes if (value := row.cells.get(column)) is not None),
        split=rows.text(row, SPLIT),
        source=row.source,
        regions=None if regions is None else storage.resolve(regions, address),
        boxes=_boxes(row),
    )


def _boxes(row: rows.Row) -> str | None:
    """The text in the column ``boxes``. A longer one than their reader takes is cut behind that, and refused there."""
    cell = row.cells.get(BOXES)
    if isinstance(cell, NonTextCell):
        raise BadRow(
            f"{BOXES} is {cell.kind}, {quoted(cell)}; expected is a text that holds JSON, in every format, like "
            f"{BOXES_EXAMPLE}. Write it with json.dumps, or give the column another name if it means something else."
        )
    return None if cell is None else cell[: MAX_BOXES_TEXT + 1]


def vocabulary(
    products: Iterable[Product],
    *,
    columns: Sequence[str] | None = None,
    min_count: int = 10,
    max_values: int | None = 200,
) -> Vocabulary:
    """The names ``column=value`` that at least ``min_count`` of ``products`` have; does not depend on their order.

    Named ``columns`` are taken as they are, in their order. Otherwise every column is considered, in the catalogue's
    order, and one that is not categorical is left out: more than ``max_values`` values, fewer than two products a value
    on average, or no value with ``min_count`` products. Names of a column are sorted.
    """
    if min_count < 1:
        raise UsageError(f"min_count is {min_count}; an attribute needs at least 1 product")
    counts: dict[str, Counter[str]] = {column: Counter() for column in columns or ()}
    places: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for product in products:
        for place, (column, value) in enumerate(product.attributes):
            if column in reasons or (columns is not None and column not in counts):
                continue
            places[column] = max(places[column], place)
            count = counts.setdefault(column, Counter())
            count[value] += 1
            if columns is None and max_values is not None and len(count) > max_values:
                # The counts go: a column of names must not hold a whole catalogue in memory.
                reasons[column] = f"more than {max_values} values"
                del counts[column]
    if columns is None:
        # Empty cells move columns forward only, so the last place that a column was seen at is its own.
        counts = {column: counts[column] for column in sorted(counts, key=lambda column: (places[column], column))}
        reasons |= {column: why for column, count in counts.items() if (why := _not_categorical(count, min_count))}
    names = [
        (f"{column}={value}", count[value])
        for column, count in counts.items()
        if column not in reasons
        for value in sorted(count)
    ]
    return Vocabulary(
        names=tuple(name for name, count in names if count >= min_count),
        left_out={name: count for name, count in names if count < min_count},
        columns_left_out=dict(sorted(reasons.items())),
    )


def _not_categorical(count: Counter[str], min_count: int) -> str | None:
    if 2 * len(count) > count.total():
        return f"{len(count)} values in {count.total()} products: nearly every value is its own"
    if max(count.values()) < min_count:
        return f"none of its {len(count)} values has {min_count} products"
    return None
