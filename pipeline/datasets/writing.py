"""What the readers of data sets share: products, what is left out and why, and the files that are written."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.datasets.reading import local_place
from pipeline.datasets.table_files import Cell, CsvTable, Format, TableFile, new_table
from transforms import storage
from transforms.core.errors import AddressRefused, UsageError
from transforms.core.similarity import condition_name
from transforms.inputs import catalogue
from transforms.storage.addresses import checked, join, resolve

SPLITS = ("train", "valid", "test")

_NAMED = 5


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
class LeftOutItems:
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
class PublishedDataset:
    """The products of a data set in ``folder``, by id, in the catalogue's order.

    ``columns`` are the attributes. ``conditions``: a pair is compared under the condition of its two types.
    """

    folder: str
    columns: tuple[str, ...]
    items: Mapping[str, Item]
    left_out: LeftOutItems
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
    dataset: PublishedDataset,
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
    manifests = _Manifests(dataset, kind, labels)
    for pair in pairs:
        manifests.add(pair)
    made = manifests.tables()
    if dataset.left_out.rows:
        made["left-out"] = CsvTable(["reason", "what"])
        for reason, what in dataset.left_out.rows:
            made["left-out"].add([reason, what])
    made["catalogue"] = _catalogue(dataset, kind, prefix)
    if predicates:
        storage.publish(paths["columns"], (",".join(predicates) + "\n").encode())
    for name, table in made.items():
        storage.publish(paths[name], table.done())
    files = ["catalogue", *(name for name in made if name != "catalogue"), *(["columns"] if predicates else [])]
    return Written(
        out=os.path.dirname(paths["catalogue"]),
        products=Counter(item.split for item in dataset.items.values()),
        pairs={split: manifests.of[split].count for split in SPLITS if split in manifests.of},
        queries={split: len(manifests.queries[split]) for split in SPLITS if split in manifests.of},
        crossing=manifests.crossing,
        files=tuple(os.path.basename(paths[name]) for name in files),
        roots=_roots(dataset, os.path.dirname(paths["catalogue"])),
    )


class _Manifests:
    """The manifest ``of`` each split that has pairs, and its ``queries``; ``crossing`` pairs join two splits."""

    def __init__(self, dataset: PublishedDataset, kind: Format, labels: bool) -> None:
        self.of: dict[str, TableFile] = {}
        self.queries: dict[str, set[str]] = {}
        self.crossing = 0
        self._dataset, self._kind, self._labels = dataset, kind, labels

    def add(self, pair: PairOf) -> None:
        """Adds a pair to the manifest of its query's split."""
        query, reference = self._dataset.items[pair.query], self._dataset.items[pair.reference]
        row: list[Cell] = [query.id, reference.id]
        if self._dataset.conditions:
            row.append(condition_name(query.type, reference.type) if query.type and reference.type else None)
        if self._labels:
            row.append(pair.label)
        if query.split not in self.of:
            self.of[query.split] = new_table(self._kind, self._header())
        self.of[query.split].add(row)
        self.queries.setdefault(query.split, set()).add(query.id)
        self.crossing += query.split != reference.split

    def tables(self) -> dict[str, TableFile]:
        """The manifests by the names of their files, in the order of the splits."""
        return {f"pairs-{split}": self.of[split] for split in SPLITS if split in self.of}

    def _header(self) -> list[str]:
        return ["query_id", "reference_id", *(["condition"] * self._dataset.conditions), *(["label"] * self._labels)]


def _catalogue(dataset: PublishedDataset, kind: Format, prefix: str) -> TableFile:
    """The catalogue; ``prefix`` stands before each image's path."""
    products = new_table(kind, [catalogue.ID, catalogue.IMAGE, catalogue.SPLIT, *dataset.columns])
    for item in dataset.items.values():
        products.add([item.id, prefix + item.image, item.split, *item.values])
    return products


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


def _roots(dataset: PublishedDataset, out: str) -> tuple[str, ...]:
    """The real folders of the images that do not lie below the catalogue's, where they may be read anyway."""
    tops = dict.fromkeys(item.image.partition("/")[0] for item in dataset.items.values())
    real = dict.fromkeys(os.path.realpath(os.path.join(dataset.folder, top)) for top in tops)
    home = os.path.realpath(out)
    return tuple(path for path in real if os.path.commonpath([path, home]) != home)


def summary(dataset: PublishedDataset, written: Written) -> Iterator[str]:
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
