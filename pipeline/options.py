"""What a run is asked to do: one frozen dataclass, validated before anything runs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from transforms import manifest, storage
from transforms.addresses import is_local, local_path
from transforms.bundle import Bundle
from transforms.core import memory
from transforms.core.errors import UsageError
from transforms.core.fill import check_fill
from transforms.core.images import Limits
from transforms.core.saliency.methods import Method, RiseMethod, SlidingWindowMethod

Runner = Literal["local", "spark", "flink", "dataflow"]


@dataclass(frozen=True)
class AuditOptions:
    """The options of ``whymatch audit``. Each is described by ``whymatch audit --help``."""

    manifest: tuple[str, ...]
    bundle: str
    out: str
    run_id: str
    catalogue: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    period: str | None = None
    method: Literal["rise", "sliding_window"] = "rise"
    masks: int = 2000
    cells: int = 8
    keep_probability: float = 0.5
    banks: int = 8
    window: int = 32
    stride: int = 4
    fill: str = "auto"
    seed: int = 0
    top: int = 5
    map_size: tuple[int, int] = (28, 28)
    device: Literal["cpu", "cuda", "auto"] = "auto"
    threads: int = 1
    batch: int | None = None
    workers: int = 1
    memory_limit: int = 6 * 2**30
    max_pixels: int = 64_000_000
    max_bytes: int = 32 * 2**20
    image_roots: tuple[str, ...] = ()
    allow_http: bool = False
    shards: int = 8
    store_embeddings: bool = False
    max_failure_rate: float = 0.05
    runner: Runner = "local"
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "masks",
            "cells",
            "banks",
            "window",
            "stride",
            "top",
            "threads",
            "workers",
            "shards",
            "max_pixels",
            "max_bytes",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(0 < self.keep_probability < 1, "keep_probability", self.keep_probability, "between 0 and 1")
        _require(0 <= self.max_failure_rate <= 1, "max_failure_rate", self.max_failure_rate, "from 0 to 1")
        _require(self.batch is None or self.batch >= 1, "batch", self.batch, "at least 1")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _require(min(self.map_size) >= 1, "map_size", self.map_size, "at least 1x1")
        _require(bool(self.manifest), "manifest", self.manifest, "at least one address")
        _require(
            re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,99}", self.run_id) is not None,
            "run_id",
            self.run_id,
            "a letter, then at most 99 letters, digits, '.', '_' or '-'",
        )
        unknown = sorted(self.columns.keys() - set(manifest.COLUMNS))
        _require(not unknown, "columns", unknown, f"among {', '.join(manifest.COLUMNS)}")
        try:
            check_fill(self.fill)
        except ValueError as error:
            raise UsageError(f"--fill: {error}") from None

    def saliency_method(self) -> Method:
        """The method with its parameters."""
        if self.method == "sliding_window":
            return SlidingWindowMethod(self.window, self.stride)
        return RiseMethod(self.masks, self.cells, self.keep_probability, self.seed, self.banks)

    def limits(self) -> Limits:
        """What is decoded at most."""
        return Limits(max_pixels=self.max_pixels)

    def access(self, files: tuple[str, ...]) -> storage.Access:
        """What image addresses may name: local files beside ``files`` and the catalogue, and in ``image_roots``."""
        named = filter(is_local, (*files, *filter(None, [self.catalogue])))
        beside = (os.path.dirname(os.path.abspath(local_path(address))) for address in named)
        roots = (os.path.abspath(local_path(root)) for root in self.image_roots)
        return storage.Access((*roots, *beside), allow_http=self.allow_http, max_bytes=self.max_bytes)

    def recorded(self) -> dict[str, Any]:
        """The options as they go into the run's row: every address without its credentials."""
        return {name: _redacted(value) for name, value in asdict(self).items() if name != "beam_args"}


def plan_memory(
    options: AuditOptions, bundle: Bundle, device: Literal["cpu", "cuda"]
) -> tuple[memory.MemoryPlan, bool]:
    """The memory that one worker needs, and whether it may keep its mask banks; UsageError where it cannot fit."""
    method = options.saliency_method()
    try:
        design = method.design(bundle.resize.size, 0)
    except ValueError as error:
        raise UsageError(f"this bundle's frame and the options do not fit: {error}") from None
    fixed: dict[str, Any] = {
        "masks": design.n,
        "size": bundle.resize.size,
        "batch": options.batch or memory.DEFAULT_BATCH[device],
        "dimension": bundle.embedding_size,
        "chunk": 256,
        "grid": options.cells**2 if options.method == "rise" else 1,
        "max_pixels": options.max_pixels,
    }
    for hold in (True, False):
        planned = memory.plan(banks=method.banks, hold=hold, **fixed)
        if planned.total <= options.memory_limit:
            return planned, hold
    raise UsageError(
        f"this configuration needs {memory.megabytes(planned.total)} a worker, more than --memory-limit "
        f"{memory.megabytes(options.memory_limit)}: {memory.megabytes(planned.decode)} for decoding images of up to "
        f"{options.max_pixels:,} pixels, {memory.megabytes(planned.embeddings)} for {design.n:,} embeddings, "
        f"{memory.megabytes(planned.estimate)} for maps. Lower --masks or --max-pixels, or raise the limit."
    )


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"--{name.replace('_', '-')} must be {expected}, not {value!r}")


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return storage.redact(value)
    if isinstance(value, (tuple, list)):
        return [_redacted(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
