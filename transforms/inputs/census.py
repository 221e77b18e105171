"""The census of a manifest: how many queries and pairs each stratum has, and which of its queries a sample keeps.

One pass over the rows in the launcher, in memory that hardly grows with them. Queries are counted exactly: a query is
a fingerprint of 16 bytes, fingerprints go to files by their first bits, and each file is small enough to be sorted. As
a fingerprint begins with the query's position, the files are in the order of positions, too: a design reads them from
the first to the last and knows the smallest positions first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transforms.core.errors import RunError, UsageError
from transforms.core.messages import listed, quoted
from transforms.core.records import Float64
from transforms.core.statistics.sampling import SamplingDesign, Stratum, fingerprint, just_above, positions
from transforms.inputs import manifest
from transforms.inputs.strata import Strata

MAX_STRATA = 10_000
"""A column with more values than this groups nothing."""

_HELD_QUERIES = 2**14
_HELD_CHARACTERS = 2**22
"""How many queries, and characters of their ids, are held before they go to the files."""
_BUCKET_BITS = 6
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("rows", "<i8"), ("stratum", "<i4")])
"""A query in a stratum: the halves of its fingerprint, its rows there, and the stratum's number."""
_Records = NDArray[np.void]
_Counts = NDArray[np.int64]
_NO_COLUMNS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Census:
    """What a manifest holds.

    ``rows`` are all of its rows, ``unreadable`` those without a query id. Of the stratum ``names[s]`` there are
    ``queries[s]`` and ``pairs[s]`` (int64 [S]): rows with a query id, whether they make a pair or fail. A query with
    rows in two strata is one of each.
    """

    seed: int
    column: str | None
    rows: int
    unreadable: int
    names: tuple[str, ...]
    queries: _Counts = field(repr=False)
    pairs: _Counts = field(repr=False)
    _files: tuple[Path, ...] = field(repr=False)

    def design(
        self,
        rate: float = 1.0,
        min_queries: int = 0,
        budget: int | None = None,
        *,
        passes_per_query: int = 1,
        passes_per_pair: int = 0,
    ) -> SamplingDesign:
        """The sample at ``rate``, with at least ``min_queries`` of each stratum that has them, within ``budget``.

        Args:
            rate: share of the queries of every stratum, above 0 and at most 1.
            min_queries: where the rate keeps fewer of a stratum, its rate is raised until it keeps that many or all.
            budget: forward passes at most; ``rate`` is lowered to the largest at which the queries and pairs that are
                really kept need no more. The query that would be too much is more often one with many pairs, so these
                are under-represented, by one query in all.
            passes_per_query, passes_per_pair: what each costs. A query that is kept in two strata counts twice.

        Raises:
            UsageError: no query would be kept, or the least that must be kept is more than the budget.
        """
        if not 0 < rate <= 1:
            raise ValueError(f"a sampling rate is above 0 and at most 1, not {rate!r}")
        if min(passes_per_query, passes_per_pair) < 0 or passes_per_query + passes_per_pair == 0:
            raise ValueError(f"a query is {passes_per_query} passes, a pair {passes_per_pair}: no budget can be kept")
        floors = self._floors(min_queries)
        cost = _Cost(passes_per_query, passes_per_pair)
        base = rate if budget is None else self._base(rate, floors, min_queries, budget, cost)
        rates = np.maximum(base, floors)
        queries, pairs = self._sampled(rates)
        if self.names and not queries.any():
            raise UsageError(
                f"--sample {rate:g} keeps none of the {self.queries.sum():,} queries; take a larger rate, or ask for "
                "some of each stratum with --min-queries"
            )
        columns = (self.names, self.queries, queries, self.pairs, pairs, rates)
        values = zip(*(column if isinstance(column, tuple) else column.tolist() for column in columns), strict=True)
        return SamplingDesign(self.seed, {row[0]: Stratum(*row) for row in sorted(values)}, self.column)

    def _buckets(self) -> Iterator[tuple[_Records, Float64]]:
        """The queries of one file after the other and their positions, which are larger from file to file."""
        for file in self._files:
            records = _read(file)
            yield records, positions(records["high"])

    def _floors(self, min_queries: int) -> Float64:
        """The rate of each stratum at which it keeps ``min_queries``, 1 where it has no more than these."""
        floors = np.where(self.queries <= min_queries, 1.0, 0.0)
        if min_queries == 0 or floors.all():
            return floors
        seen = np.zeros_like(self.queries)
        for records, places in self._buckets():
            counts = np.bincount(records["stratum"], minlength=len(seen))
            reached = np.flatnonzero((seen < min_queries) & (seen + counts >= min_queries) & (floors == 0))
            by_stratum = places[np.lexsort((places, records["stratum"]))]
            last = (np.cumsum(counts) - counts)[reached] + min_queries - seen[reached] - 1
            floors[reached] = just_above(by_stratum[last])
            seen += counts
        return floors

    def _sampled(self, rates: Float64) -> tuple[_Counts, _Counts]:
        """The queries and the pairs that each stratum keeps, int64 [S] both."""
        queries, pairs = np.zeros_like(self.queries), np.zeros_like(self.pairs)
        for records, places in self._buckets():
            kept = records[places < rates[records["stratum"]]]
            queries += np.bincount(kept["stratum"], minlength=len(queries))
            np.add.at(pairs, kept["stratum"], kept["rows"])
        return queries, pairs

    def _base(self, rate: float, floors: Float64, min_queries: int, budget: int, cost: _Cost) -> float:
        """The largest rate up to ``rate`` that fits into the budget with the strata's ``floors``."""
        queries, pairs = (int(counts.sum()) for counts in self._sampled(floors))
        spent = cost.of(queries, pairs)
        if spent > budget:
            raise UsageError(
                f"--budget-passes {budget:,} is not enough: --min-queries {min_queries:,} takes {queries:,} queries "
                f"with {pairs:,} pairs, which is {spent:,} forward passes ({cost}). Raise the budget, ask for fewer "
                "queries, or make an explanation cheaper with fewer masks"
            )
        for records, places in self._buckets():
            more = (places >= floors[records["stratum"]]) & (places < rate)
            order = np.argsort(places[more], kind="stable")
            candidates, rows = places[more][order], records["rows"][more][order]
            total = spent + np.cumsum(cost.query + cost.pair * rows)
            if (beyond := np.flatnonzero(total > budget)).size:
                first = int(beyond[0])
                base = float(candidates[first])
                if queries == 0 and candidates[0] == base:
                    raise UsageError(
                        f"--budget-passes {budget:,} leaves no query at all: the first one, with its {rows[first]:,} "
                        f"pairs, is {cost.of(1, int(rows[first])):,} forward passes ({cost}). Raise the budget, or "
                        "make an explanation cheaper with fewer masks"
                    )
                return base
            if rows.size:
                queries, spent = queries + rows.size, int(total[-1])
        return rate


@dataclass(frozen=True)
class _Cost:
    query: int
    pair: int

    def of(self, queries: int, pairs: int) -> int:
        return queries * self.query + pairs * self.pair

    def __str__(self) -> str:
        return f"{self.query:,} a query and {self.pair:,} a pair"


@contextmanager
def take(
    files: Sequence[str],
    *,
    columns: Mapping[str, str] = _NO_COLUMNS,
    keep: Sequence[str] = (),
    strata: Strata | None = None,
    seed: int,
) -> Iterator[Census]:
    """Counts the rows of the manifest's ``files``; the census can make designs for as long as the block runs.

    ``columns`` and ``keep`` are those of :func:`manifest.read`, so that every row has the same query as there.

    Memory holds the names of the strata, some 16,000 queries and about one in 64 of all records of a query, 28 bytes
    each; the records lie in a private folder that goes with the block.

    Raises:
        UsageError: a file cannot be read, or there are more than ``MAX_STRATA`` strata.
        RunError: the folder for temporary files is full.
    """
    strata = strata or Strata()
    try:
        folder = tempfile.TemporaryDirectory(prefix="whymatch-census-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(error) from None
    with folder as name:
        counting = _Counting(Path(name), strata.column, seed)
        for file in files:
            for found in manifest.read_queries(file, columns=columns, keep=keep, strata=strata):
                counting.add(found)
        yield counting.done()


class _Counting:
    def __init__(self, folder: Path, column: str | None, seed: int) -> None:
        self._folder, self._column, self._seed = folder, column, seed
        self._held: dict[tuple[str, str], int] = {}
        self._characters = 0
        self._numbers: dict[str, int] = {}
        self._rows = 0
        self._unreadable = 0

    def add(self, query: tuple[str, str] | None) -> None:
        """Counts a row of this query id and stratum."""
        self._rows += 1
        if query is None:
            self._unreadable += 1
        elif query in self._held:
            self._held[query] += 1
        else:
            self._held[query] = 1
            self._characters += len(query[0])
            if len(self._held) == _HELD_QUERIES or self._characters > _HELD_CHARACTERS:
                self._store()

    def done(self) -> Census:
        """Stores what is held and adds up the rows of each query."""
        self._store()
        queries, pairs = (np.zeros(len(self._numbers), np.int64) for _ in range(2))
        files = tuple(sorted(self._folder.iterdir()))
        for file in files:
            records = _summed(_read(file))
            _write(file, records, "wb")
            queries += np.bincount(records["stratum"], minlength=len(queries))
            np.add.at(pairs, records["stratum"], records["rows"])
        names = tuple(self._numbers)
        return Census(self._seed, self._column, self._rows, self._unreadable, names, queries, pairs, files)

    def _store(self) -> None:
        if not self._held:
            return
        for _, stratum in self._held:
            self._numbers.setdefault(stratum, len(self._numbers))
        if len(self._numbers) > MAX_STRATA:
            raise UsageError(
                f"--stratify {quoted(self._column or '')}: the column has more than {MAX_STRATA:,} values, such as "
                f"{listed(list(self._numbers)[:3])}, and each would be a stratum; name a column that groups queries"
            )
        records = np.empty(len(self._held), _RECORD)
        prints = b"".join(fingerprint(query_id, self._seed) for query_id, _ in self._held)
        records["high"], records["low"] = np.frombuffer(prints, ">u8").reshape(-1, 2).T
        records["rows"] = list(self._held.values())
        records["stratum"] = [self._numbers[stratum] for _, stratum in self._held]
        records = records[np.argsort(records["high"])]
        buckets, starts = np.unique(records["high"] >> np.uint64(64 - _BUCKET_BITS), return_index=True)
        for bucket, part in zip(buckets, np.split(records, starts[1:]), strict=True):
            _write(self._folder / f"{bucket:02d}", part, "ab")
        self._held.clear()
        self._characters = 0


def _summed(records: _Records) -> _Records:
    """Each query in a stratum once, with all of its rows."""
    records = records[np.lexsort((records["low"], records["high"], records["stratum"]))]
    high, low, rows, stratum = (records[name] for name in _RECORD.names or ())
    new = np.ones(len(records), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1]) | (stratum[1:] != stratum[:-1])
    starts = np.flatnonzero(new)
    found = np.empty(len(starts), _RECORD)
    found["high"], found["low"], found["stratum"] = high[starts], low[starts], stratum[starts]
    found["rows"] = np.add.reduceat(rows, starts)
    return found


def _read(file: Path) -> _Records:
    return np.fromfile(file, _RECORD)


def _write(file: Path, records: _Records, mode: str) -> None:
    try:
        with open(file, mode) as stream:
            stream.write(records.tobytes())
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> RunError:
    return RunError(
        f"the queries of the manifest cannot be counted in the folder {tempfile.gettempdir()}: "
        f"{os.strerror(error.errno or 0)}. Set TMPDIR to a folder with room for them."
    )
