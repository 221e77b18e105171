"""What the readers of data sets share: products, what is left out and why, and the files that are written."""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.reading import local_place
from transforms import storage
from transforms.core.errors import AddressRefused, UsageError
from transforms.core.similarity import condition_name
from transforms.inputs import catalogue
from transforms.storage.addresses import checked, join, resolve

SPLITS = ("train", "valid", "test")

Echo = Callable[[str], None]
Format = Literal["csv", "parquet"]
Cell = str | int | None

_NAMED = 5
_GROUP = 2**14  # rows of a Parquet row group


@dataclass(frozen=True, slots=True)
class Item:
    """A product: ``image`` is its file below the data set's folder, ``values`` are those of the data set's columns.

    ``type`` is one of the two of a condition's name, None where the data set has no types or does not say.
    """

    id: str
    image: str
    split: str
    values: tuple[str | None, ...]
    type: str | None = None


@dataclass
class LeftOut:
    """What is not used, counted by reason; ``rows`` names each by reason, as far as it has a name."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, reason: str, what: str) -> None:
        """Counts one and keeps its name."""
        self.counts[reason] += 1
        self.rows.append((reason, what))

    def count(self, reason: str, number: int = 1) -> None:
        """Counts some that have no name."""
        if number:
            self.counts[reason] += number

    def lines(self) -> Iterator[str]:
        """A line for each reason, with the first that it names."""
        first: dict[str, list[str]] = {}
        for reason, what in self.rows:
            if len(some := first.setdefault(reason, [])) < _NAMED:
                some.append(what)
        for reason, count in self.counts.items():
            named = first.get(reason, [])
            more = ", …" if count > len(named) else ""
            yield f"{count:,} {reason}" + (f": {', '.join(named)}{more}" if named else "")


@dataclass(frozen=True)
class Dataset:
    """The products of a data set in ``folder``, by id, in the catalogue's order.

    ``columns`` are the attributes. ``conditions``: a pair is compared under the condition of its two types.
    """

    folder: str
    columns: tuple[str, ...]
    items: Mapping[str, Item]
    left_out: LeftOut
    notes: tuple[str, ...] = ()
    conditions: bool = False


@dataclass(frozen=True, slots=True)
class PairOf:
    """Ids of a pair of products; ``label`` is 1 for a match and 0 for none, None where all pairs are matches."""

    query: str
    reference: str
    label: int | None = None


@dataclass(frozen=True)
class Written:
    """What was written: ``pairs`` and ``queries`` by split, ``files`` by name, ``roots`` for --image-root."""

    out: str
    products: Counter[str]
    pairs: dict[str, int]
    queries: dict[str, int]
    crossing: int
    files: tuple[str, ...]
    roots: tuple[str, ...]


def targets(out: str, kind: Format) -> dict[str, str]:
    """The paths of all files that may be written to the folder ``out``, by name; UsageError where one is there."""
    folder = local_place(out, "--out")
    names = ["catalogue", *(f"pairs-{split}" for split in SPLITS)]
    found = {name: join(folder, f"{name}.{kind}") for name in names}
    found |= {"left-out": join(folder, "left-out.csv"), "columns": join(folder, "columns.txt")}
    if taken := [path for path in found.values() if storage.exists(path)]:
        raise UsageError(f"{storage.shown(taken[0])} exists already; remove it, or choose another --out")
    return found


def write(
    dataset: Dataset,
    pairs: Iterable[PairOf],
    out: str,
    kind: Format = "csv",
    *,
    labels: bool = False,
    predicates: Sequence[str] = (),
) -> Written:
    """Writes the catalogue and a manifest for each split that has pairs; a pair is of its query's split.

    Each file is written whole or not at all, the catalogue last. ``labels``: the manifests get the column label.
    ``predicates``: columns to name in columns.txt, for the option of that name.
    UsageError where there is no product, an image's address could not be read back, or a file is there already.
    """
    paths = targets(out, kind)
    if not dataset.items:
        raise UsageError(
            f"{storage.shown(dataset.folder)} has no product that can be used. Left out: "
            f"{'; '.join(dataset.left_out.lines()) or 'nothing'}"
        )
    prefix = _prefix(dataset.folder, paths["catalogue"])
    header = ["query_id", "reference_id", *(["condition"] * dataset.conditions), *(["label"] * labels)]
    tables: dict[str, _Table] = {}
    queries: dict[str, set[str]] = {}
    crossing = 0
    for pair in pairs:
        query, reference = dataset.items[pair.query], dataset.items[pair.reference]
        row: list[Cell] = [query.id, reference.id]
        if dataset.conditions:
            row.append(condition_name(query.type, reference.type) if query.type and reference.type else None)
        if labels:
            row.append(pair.label)
        if query.split not in tables:
            tables[query.split] = _table(kind, header)
        tables[query.split].add(row)
        queries.setdefault(query.split, set()).add(query.id)
        crossing += query.split != reference.split
    products = _table(kind, [catalogue.ID, catalogue.IMAGE, catalogue.SPLIT, *dataset.columns])
    for item in dataset.items.values():
        products.add([item.id, prefix + item.image, item.split, *item.values])
    made = {f"pairs-{split}": tables[split] for split in SPLITS if split in tables}
    if dataset.left_out.rows:
        made["left-out"] = _Csv(["reason", "what"])
        for reason, what in dataset.left_out.rows:
            made["left-out"].add([reason, what])
    if predicates:
        storage.publish(paths["columns"], (",".join(predicates) + "\n").encode())
    for name, table in [*made.items(), ("catalogue", products)]:
        storage.publish(paths[name], table.done())
    return Written(
        out=os.path.dirname(paths["catalogue"]),
        products=Counter(item.split for item in dataset.items.values()),
        pairs={split: tables[split].count for split in SPLITS if split in tables},
        queries={split: len(queries[split]) for split in SPLITS if split in tables},
        crossing=crossing,
        files=tuple(
            os.path.basename(paths[name]) for name in ["catalogue", *made, *(["columns"] if predicates else [])]
        ),
        roots=_roots(dataset, os.path.dirname(paths["catalogue"])),
    )


def _prefix(folder: str, path: str) -> str:
    """What stands before an image's path in the catalogue at ``path``: nothing of a folder that both lie in."""
    out = os.path.dirname(path)
    inside = os.path.commonpath([folder, out]) == out
    start = os.path.relpath(folder, out) if inside else folder
    prefix = "" if start == "." else start.rstrip("/") + "/"
    try:
        checked(resolve(f"{prefix}image.jpg", path))
    except AddressRefused as error:
        raise UsageError(f"images could not be read from {storage.shown(folder)}: {error}. Move the folder") from None
    return prefix


def _roots(dataset: Dataset, out: str) -> tuple[str, ...]:
    """The real folders of the images that do not lie below the catalogue's, where they may be read anyway."""
    tops = dict.fromkeys(item.image.partition("/")[0] for item in dataset.items.values())
    real = dict.fromkeys(os.path.realpath(os.path.join(dataset.folder, top)) for top in tops)
    home = os.path.realpath(out)
    return tuple(path for path in real if os.path.commonpath([path, home]) != home)


def summary(dataset: Dataset, written: Written) -> Iterator[str]:
    """What was read and written, in lines."""
    splits = ", ".join(f"{written.products[split]:,} {split}" for split in SPLITS)
    yield f"products    {written.products.total():,}: {splits}"
    shown = ", ".join(dataset.columns[:6]) + (", …" if len(dataset.columns) > 6 else "")
    yield f"attributes  {len(dataset.columns):,} columns: {shown}"
    each = "; ".join(
        f"{split} {count:,} of {written.queries[split]:,} queries" for split, count in written.pairs.items()
    )
    yield f"pairs       {sum(written.pairs.values()):,}{f': {each}' if each else ''}"
    if lacking := [split for split in SPLITS if split not in written.pairs]:
        yield f"            none of {', '.join(lacking)}: no manifest is written for it"
    if written.crossing:
        yield f"            {written.crossing:,} of them join two splits; they are of their query's"
    for note in dataset.notes:
        yield f"note        {note}"
    for line in dataset.left_out.lines():
        yield f"left out    {line}"
    yield f"files       {storage.shown(written.out)}: {', '.join(written.files)}"


def next_commands(written: Written, kind: Format, similarity: str, attributes: str, *, labels: bool) -> Iterator[str]:
    """The commands from the catalogue to an audit; ``similarity`` and ``attributes`` are options of the trainings."""
    at = [f"--catalogue {shlex.quote(join(written.out, f'catalogue.{kind}'))}"]
    data = " ".join(at + [f"--image-root {shlex.quote(root)}" for root in written.roots])
    yield f"whymatch train similarity {data} {similarity} --out similarity"
    yield f"whymatch train attributes {data} {attributes} --out attributes"
    yield "whymatch export --similarity similarity/similarity.pt --attributes attributes/attributes.pt --out bundle"
    if written.pairs:
        best = next(split for split in reversed(SPLITS) if split in written.pairs)
        manifest = shlex.quote(join(written.out, f"pairs-{best}.{kind}"))
        keep = " --keep label" if labels else ""
        yield f"whymatch audit --manifest {manifest} {data} --bundle bundle --out tables{keep}"


# Tables


class _Table(Protocol):
    count: int

    def add(self, row: Sequence[Cell]) -> None: ...

    def done(self) -> bytes: ...


def _table(kind: Format, columns: Sequence[str]) -> _Table:
    return _Csv(columns) if kind == "csv" else _Parquet(columns)


class _Csv:
    """Rows as the bytes of a CSV file, which are all that is held. No cell holds a line break: readers refuse it."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.count = 0
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow(columns)

    def add(self, row: Sequence[Cell]) -> None:
        self.count += 1
        self._writer.writerow(row)

    def done(self) -> bytes:
        return self._text.getvalue().encode()


class _Parquet:
    """Rows as the bytes of a Parquet file, a row group at a time; ``label`` is an integer, all others are texts."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.count = 0
        fields: list[Any] = [pa.field(name, pa.int64() if name == "label" else pa.string()) for name in columns]
        self._schema = pa.schema(fields)
        self._sink = pa.BufferOutputStream()
        self._file = pq.ParquetWriter(self._sink, self._schema, compression="zstd", write_page_checksum=True)
        self._rows: list[Sequence[Cell]] = []

    def add(self, row: Sequence[Cell]) -> None:
        self.count += 1
        self._rows.append(tuple(row))
        if len(self._rows) == _GROUP:
            self._flush()

    def done(self) -> bytes:
        self._flush()
        self._file.close()
        return bytes(self._sink.getvalue())

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(cells, field.type)
                for cells, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            self._file.write_table(pa.table(columns, schema=self._schema))
            self._rows = []
