"""Takes all rows of some products out of the tables of finished and unfinished runs.

Nothing is changed before every file was read (``transforms.tables.erasure_search``), so a file that cannot be read
stops an erasure that has done nothing. A file in which nothing is found is not touched, any other is replaced at once:
a reader sees the old rows or the rows that remain.

Files of a run are replaced in the order of ``TABLES``: the rows from which the addresses of ``images`` are known go
last, so that an erasure that breaks off can be repeated, and the repetition finds what is left.
"""

from __future__ import annotations

import io
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from transforms import storage, tables
from transforms.core.errors import RunError, UsageError
from transforms.tables.erased_ids import Ids
from transforms.tables.erasure_search import ErasureSearch, FileFound, RunFound, by_table, find
from transforms.tables.rewriting import faithful_parquet, open_parquet, readable


@dataclass(frozen=True)
class Erasure:
    """The record that an erasure leaves in each run: never what was erased, nor a hash of it.

    ``reason`` has passed :meth:`Ids.check_reason`.
    """

    version: str
    reason: str | None = None
    id: str = field(default_factory=lambda: f"erasure-{secrets.token_hex(8)}")

    def row(self, rows: Mapping[str, int]) -> tables.Row:
        """The row of the table erasures, for ``rows`` gone by table."""
        return {
            "erasure_id": self.id,
            "erased": datetime.now(UTC),
            "whymatch_version": self.version,
            "rows": [{"table": table, "rows": count} for table, count in sorted(rows.items())],
            "reason": self.reason,
        }


def erase(out: str, found: RunFound, ids: Ids, erasure: Erasure) -> dict[str, int]:
    """Rewrites the files of ``found`` and records it in the run's table erasures; returns the rows gone by table.

    What was done before an error is recorded, too.
    """
    search = ErasureSearch(ids, found.addresses)
    gone: Counter[str] = Counter()
    done = 0

    def record() -> None:
        address = storage.join(tables.folder(out, "erasures", found.run_id), tables.part(0, erasure.id))
        row = erasure.row(by_table(gone.items()))
        storage.publish(address, faithful_parquet(tables.to_arrow("erasures", [row]), address))

    try:
        for file in found.files:
            gone[file.table] += _rewrite(file, search)
            done += 1
    except BaseException:
        if done:
            with suppress(RunError, UsageError):  # the storage may be what fails
                record()
        raise
    record()
    return by_table(gone.items())


def check_erased(out: str, ids: Ids, run_id: str | None = None) -> None:
    """RunError where rows hold the ids still: another program has written them since."""
    if left := find(out, ids, run_id):
        raise RunError(
            f"rows of {', '.join(run.run_id for run in left)} hold what was erased: an audit, an evaluation or another "
            "erasure wrote them at the same time. Wait for it to end, then erase again."
        )


def _rewrite(file: FileFound, search: ErasureSearch) -> int:
    data = storage.read_file(file.address)
    with readable(file.address):
        rows = open_parquet(file.address, io.BytesIO(data)).read()
        goes = search.goes(rows, file.table)
        kept, masked = search.mask(rows.filter(pa.array(~goes)), file.table)
        made = faithful_parquet(kept, file.address) if masked or goes.any() else None
    if made is not None:
        storage.replace(file.address, made)
    return int(goes.sum())
