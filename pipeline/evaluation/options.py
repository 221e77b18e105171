"""What an evaluation is asked to do: one frozen dataclass, validated before anything runs."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.audit.options import redacted
from pipeline.runs.runners import LOCAL, RunnerProfile, profile_of
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.imaging.fill import check_fill
from transforms.core.imaging.images import ImageLimits
from transforms.core.metrics.removal import Removal
from transforms.core.saliency.controls import CONTROLS
from transforms.evaluating.settings import ATTRIBUTES, CURVES, MEASURES, REGIONS, UNRELATED
from transforms.storage.addresses import is_local, local_path

DEFAULT_METRICS = ("insertion", "deletion")
DEFAULT_CONTROLS = ("random", "centre", UNRELATED)
CONTROL_NAMES = (*CONTROLS, UNRELATED)


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of ``whymatch evaluate``. Each is described by ``whymatch evaluate --help``."""

    tables: str
    bundle: str
    evaluation_id: str
    run_id: str | None = None
    metrics: tuple[str, ...] = DEFAULT_METRICS
    methods: tuple[str, ...] = ()
    controls: tuple[str, ...] = DEFAULT_CONTROLS
    maps: Literal["stored", "full"] = "stored"
    fills: tuple[str, ...] = ("#ffffff",)
    sample: float = 1.0
    sampling_seed: int = 0
    catalogue: str | None = None
    region: str | None = None
    legend: str | None = None
    tolerance: float = 0.0
    split: str | None = None
    neighbours: int = Removal.neighbours
    max_distance: int = 0
    noise: float = 5.0
    stages: int = 6
    seed: int = 0
    scratch: str | None = None
    report: str | None = None
    max_agreement: float = 0.5
    max_failure_rate: float = 0.05
    image_roots: tuple[str, ...] = ()
    allow_http: bool = False
    max_pixels: int = 64_000_000
    max_bytes: int = 32 * 2**20
    memory_limit: int = 6 * 2**30
    device: Literal["cpu", "cuda", "auto"] = "auto"
    threads: int = 1
    batch: int | None = None
    workers: int = 1
    shards: int = 8
    runner: str = LOCAL.name
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _among("metrics", self.metrics, MEASURES)
        _among("controls", self.controls, CONTROL_NAMES, may_be_empty=True)
        for name in ("threads", "workers", "shards", "max_pixels", "max_bytes"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.batch is None or self.batch >= 1, "batch", self.batch, "at least 1")
        _require(self.stages >= 3, "stages", self.stages, "at least 3: the head, half, all")
        _require(0 < self.sample <= 1, "sample", self.sample, "above 0 and at most 1")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _require(self.sampling_seed >= 0, "sampling_seed", self.sampling_seed, "at least 0")
        _require(self.noise > 0, "noise", self.noise, "above 0, in levels of 255")
        _require(self.tolerance >= 0, "tolerance", self.tolerance, "at least 0 pixels")
        _require(-1 <= self.max_agreement <= 1, "max_agreement", self.max_agreement, "a correlation, from -1 to 1")
        _require(0 <= self.max_failure_rate <= 1, "max_failure_rate", self.max_failure_rate, "from 0 to 1")
        _require(
            re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,99}", self.evaluation_id) is not None,
            "evaluation_id",
            self.evaluation_id,
            "a letter, then at most 99 letters, digits, '.', '_' or '-'",
        )
        _require(bool(self.fills), "fills", self.fills, "at least one fill")
        for fill in self.fills:
            try:
                check_fill(fill)
            except ValueError as error:
                raise UsageError(f"--fills: {error}") from None
        # one colour may be written in two ways, and would be measured twice
        object.__setattr__(self, "fills", tuple(fill.lower() for fill in self.fills))
        _differ("fills", self.fills)
        self.removal()
        if self.asks(*REGIONS) and not (self.catalogue and self.region):
            raise UsageError(
                f"{', '.join(REGIONS)} need --catalogue with a column 'regions', the address of each product's label "
                "image, and --region, the name of the region that a map should find"
            )
        if self.asks(*ATTRIBUTES) and not self.catalogue:
            raise UsageError(f"{' and '.join(ATTRIBUTES)} need --catalogue, which says what attributes products have")
        if self.maps == "full" and "stranger" in self.metrics:
            raise UsageError("stranger compares with another query's map of the table: leave --maps full out")
        if "sanity" in self.metrics and not self.profile.here and not self.scratch:
            raise UsageError(
                f"--runner {self.runner}: sanity needs --scratch, a folder that its workers can read, for randomised "
                "copies of the bundle"
            )

    @property
    def profile(self) -> RunnerProfile:
        """What is known of the runner."""
        return profile_of(self.runner)

    def asks(self, *metrics: str) -> bool:
        """Whether one of ``metrics`` is wanted."""
        return not set(self.metrics).isdisjoint(metrics)

    @property
    def compares(self) -> bool:
        """Whether maps are measured one by one, so that controls can be measured beside them."""
        return self.asks(*CURVES, *REGIONS, "sanity")

    @property
    def with_unrelated(self) -> bool:
        """Whether another query's map is measured beside: a map of the table, so only beside those of the table."""
        return UNRELATED in self.controls and self.maps == "stored" and self.asks(*CURVES, *REGIONS)

    def removal(self) -> Removal:
        """Which products stand for a query without an attribute; UsageError for numbers that cannot be."""
        try:
            return Removal(self.neighbours, max_distance=self.max_distance)
        except ValueError as error:
            raise UsageError(f"--neighbours {self.neighbours} --max-distance {self.max_distance}: {error}") from None

    def limits(self) -> ImageLimits:
        """What is decoded at most."""
        return ImageLimits(max_pixels=self.max_pixels)

    def access(self) -> storage.Access:
        """What image addresses may name: files beside the catalogue and in ``image_roots``."""
        named = [self.catalogue] if self.catalogue and is_local(self.catalogue) else []
        beside = (os.path.dirname(os.path.abspath(local_path(address))) for address in named)
        roots = (os.path.abspath(local_path(root)) for root in self.image_roots)
        return storage.Access((*roots, *beside), allow_http=self.allow_http, max_bytes=self.max_bytes)

    def recorded(self) -> dict[str, Any]:
        """The options as they go into the evaluation's row: every address without its credentials."""
        return {name: redacted(value) for name, value in asdict(self).items() if name != "beam_args"}


def _among(name: str, given: tuple[str, ...], known: tuple[str, ...], *, may_be_empty: bool = False) -> None:
    unknown = [one for one in given if one not in known]
    _require(
        not unknown and (may_be_empty or bool(given)), name, unknown or given, f"one or more of {', '.join(known)}"
    )
    _differ(name, given)


def _differ(name: str, given: tuple[str, ...]) -> None:
    if len(set(given)) < len(given):
        raise UsageError(f"--{name} names one twice: {', '.join(given)}")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"--{name.replace('_', '-')} must be {expected}, not {value!r}")
