"""An audit's options: what memory they need, and their record in the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.bundle_fit import plan_memory
from pipeline.audit.options import AuditOptions
from transforms.core.errors import UsageError
from transforms.serving import bundle as bundles


def options(**changes: object) -> AuditOptions:
    given: dict[str, object] = {"manifest": ("m.csv",), "bundle": "b", "out": "o", "run_id": "r", **changes}
    return AuditOptions(**given)  # type: ignore[arg-type]


def test_masks_that_do_not_fit_are_drawn_again_and_less_is_refused(bundle: Path) -> None:
    read = bundles.read(str(bundle))
    many: dict[str, Any] = {"masks": 20_000, "max_pixels": 1000, "settings": {"rise.banks": "8"}}
    held, hold = plan_memory(options(**many), read, "cpu")
    assert hold
    assert held.bank == 8 * 20_000 * 12 * 16 * 4
    assert plan_memory(options(**many, memory_limit=held.total), read, "cpu") == (held, True)
    smaller, hold = plan_memory(options(**many, memory_limit=held.total - 1), read, "cpu")
    assert not hold
    assert smaller.bank < held.bank
    assert (smaller.decode, smaller.embeddings) == (held.decode, held.embeddings)
    with pytest.raises(UsageError, match="--memory-limit"):
        plan_memory(options(**many, memory_limit=smaller.total - 1), read, "cpu")


def test_the_record_of_the_options_holds_no_credentials() -> None:
    given = options(
        out="s3://key:s3cr3t@bucket/tables",
        manifest=("gs://b/m.csv?token=s3cr3t",),
        beam_args=("--password=s3cr3t",),
        columns={"query": "https://u:s3cr3t@x/"},
    )
    recorded = given.recorded()
    assert "s3cr3t" not in repr(recorded)
    assert (recorded["methods"], recorded["out"]) == (["rise"], "s3://***@bucket/tables")
    assert recorded["manifest"] == ["gs://b/m.csv?***"]
