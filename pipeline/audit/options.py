"""What a run is asked to do: one frozen dataclass, validated before anything runs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.runs.runners import LOCAL, RunnerProfile, profile_of
from transforms import storage
from transforms.core import memory
from transforms.core.errors import UsageError
from transforms.core.imaging.fill import check_fill
from transforms.core.imaging.images import ImageLimits
from transforms.core.memory import CHUNK
from transforms.core.messages import listed, quoted
from transforms.core.saliency.explainer import Explainer, Perturb, ReferenceMasks, Side
from transforms.core.saliency.methods import METHODS, NO_FILL, PAIRS, LimeMethod, RiseMethod, make_method
from transforms.inputs import manifest
from transforms.serving.bundle import Bundle
from transforms.serving.superpixels import SEGMENTS
from transforms.storage.addresses import is_local, local_path


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
    methods: tuple[str, ...] = ("rise",)
    masks: int | None = None
    sampling: str | None = None
    converge: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    explain: Literal["query", "reference", "both"] = "query"
    perturb: Perturb = "query"
    reference_masks: int = 30
    fill: str | None = None
    seed: int = 0
    top: int = 5
    map_size: tuple[int, int] = (28, 28)
    contrast: bool = False
    false_alarm_rate: float = 0.05
    legend: str | None = None
    sample: float = 1.0
    sampling_seed: int = 0
    stratify: str | None = None
    min_queries: int = 0
    budget_passes: int | None = None
    score_tolerance: float = 0.01
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
    runner: str = LOCAL.name
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "reference_masks",
            "top",
            "threads",
            "workers",
            "shards",
            "max_pixels",
            "max_bytes",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(0 <= self.max_failure_rate <= 1, "max_failure_rate", self.max_failure_rate, "from 0 to 1")
        _require(0 < self.false_alarm_rate < 1, "false_alarm_rate", self.false_alarm_rate, "between 0 and 1")
        _require(0 < self.sample <= 1, "sample", self.sample, "above 0 and at most 1")
        _require(self.sampling_seed >= 0, "sampling_seed", self.sampling_seed, "at least 0")
        _require(self.min_queries >= 0, "min_queries", self.min_queries, "at least 0")
        _require(
            self.budget_passes is None or self.budget_passes >= 1, "budget_passes", self.budget_passes, "at least 1"
        )
        _require(self.score_tolerance >= 0, "score_tolerance", self.score_tolerance, "at least 0")
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
            check_fill(self.fill or "auto")
        except ValueError as error:
            raise UsageError(f"--fill: {error}") from None
        self.explainers()

    @property
    def profile(self) -> RunnerProfile:
        """What is known of the runner."""
        return profile_of(self.runner)

    def explainers(self) -> tuple[Explainer, ...]:
        """The methods with their parameters, fills, and what they perturb; UsageError for values they cannot have."""
        _require(bool(self.methods), "method", self.methods, f"among {', '.join(METHODS)}")
        if repeated := [name for name in self.methods if self.methods.count(name) > 1]:
            raise UsageError(f"--method names {repeated[0]} twice; a run has one setting of each method")
        values = self._values()
        if unused := sorted(set(values) - set(self.methods)):
            raise UsageError(
                f"{', '.join(f'{unused[0]}.{name}' for name in values[unused[0]])} is set, but --method is "
                f"{','.join(self.methods)}: name {unused[0]} there too, or leave the setting out"
            )
        made = []
        for name in self.methods:
            try:
                method = make_method(name, values.get(name, {}), self.seed)
            except ValueError as error:
                raise UsageError(f"--method {name}: {error}") from None
            fill = method.fill if self.fill is None or method.fill == NO_FILL else self.fill
            if self.contrast and method.needs == "gradient":
                raise UsageError(
                    f"--contrast needs a method that compares with any vector at no passes of its own: {name} follows "
                    "the gradient of one pair. Take rise, sliding_window, sbsm, lime or decomposition."
                )
            if self.contrast and self.perturb == "both":
                raise UsageError("--contrast compares with random references as they are: leave --perturb both out")
            masked = None if name == "mask" else self.masked()
            made.append(Explainer(method, fill, self.perturb, masked, self.contrast))
        if self.explain == "both" and any(explainer.converges for explainer in made):
            raise UsageError(
                "--converge stops where the maps of all pairs of an image have converged, and --explain both would mix "
                "pairs of both sides: run --explain query and --explain reference apart"
            )
        return tuple(made)

    def sides(self) -> tuple[Side, ...]:
        """Which of a pair's images are explained."""
        return ("query", "reference") if self.explain == "both" else (self.explain,)

    def masked(self) -> ReferenceMasks | None:
        """How the image that another is compared with is perturbed, None where it is not."""
        if self.perturb == "query" or all(name == "mask" for name in self.methods):
            return None
        return ReferenceMasks(self.reference_masks, self.fill or RiseMethod.fill, self.seed)

    def _values(self) -> dict[str, dict[str, str]]:
        """The text of every parameter that is set, by method."""
        values: dict[str, dict[str, str]] = {}
        for key, value in self.settings.items():
            method, dot, parameter = key.partition(".")
            _require(bool(dot and parameter), "set", key, "METHOD.PARAMETER=VALUE, such as lime.samples=500")
            values.setdefault(method, {})[parameter] = value
        for parameter in ("masks", "sampling", "converge"):
            if (given := getattr(self, parameter)) is not None:
                if parameter in values.get("rise", {}):
                    raise UsageError(f"--{parameter} and --set rise.{parameter} say the same: leave one of them out")
                values.setdefault("rise", {})[parameter] = str(given)
        return values

    def sampling_design(self) -> str:
        """How queries are sampled, in words, for the run's row."""
        said = [
            "all queries"
            if self.sample == 1 and self.budget_passes is None
            else f"queries at the rate {self.sample:g}",
            f"by {self.stratify}" if self.stratify else "",
            f"at least {self.min_queries} of a stratum" if self.min_queries else "",
            f"within {self.budget_passes} passes" if self.budget_passes is not None else "",
        ]
        return ", ".join(filter(None, said))

    def limits(self) -> ImageLimits:
        """What is decoded at most."""
        return ImageLimits(max_pixels=self.max_pixels)

    def access(self, files: tuple[str, ...]) -> storage.Access:
        """What image addresses may name: local files beside ``files`` and the catalogue, and in ``image_roots``."""
        named = filter(is_local, (*files, *filter(None, [self.catalogue])))
        beside = (os.path.dirname(os.path.abspath(local_path(address))) for address in named)
        roots = (os.path.abspath(local_path(root)) for root in self.image_roots)
        return storage.Access((*roots, *beside), allow_http=self.allow_http, max_bytes=self.max_bytes)

    def recorded(self) -> dict[str, Any]:
        """The options as they go into the run's row: every address without its credentials."""
        return {name: redacted(value) for name, value in asdict(self).items() if name != "beam_args"}


EXPLAINING = (
    "methods",
    "masks",
    "sampling",
    "converge",
    "settings",
    "explain",
    "perturb",
    "reference_masks",
    "fill",
    "contrast",
    "seed",
    "map_size",
)
"""The options that say how a run explains, and nothing of what."""


def explaining(configuration: Mapping[str, Any], **changes: Any) -> AuditOptions:
    """How the run of that recorded ``configuration`` explained, with ``changes``, as options of an audit of nothing.

    UsageError, and nothing else, where the record holds what no audit can be asked for: tables may be of anybody.
    """
    recorded = {name: configuration[name] for name in EXPLAINING if name in configuration}
    try:
        for name, value in recorded.items():
            if not _is_recorded(name, value):
                raise UsageError(f"its {name.replace('_', ' ')} is {quoted(repr(value))}")
        given = {**recorded, **changes}
        given |= {name: tuple(given[name]) for name in ("methods", "map_size") if name in given}
        return AuditOptions(("none",), "none", "none", "none", **given)
    except (TypeError, ValueError, OverflowError, UsageError) as error:
        raise UsageError(f"the run's record does not say how it explained: {error}. Audit again.") from None


def _is_recorded(name: str, value: Any) -> bool:
    """Whether an audit may have recorded ``value`` as its option ``name``, one of ``EXPLAINING``, as JSON."""

    def whole(value: Any, most: int) -> bool:
        return type(value) is int and 0 <= value <= most  # True is an int, too

    if value is None:
        return name in ("masks", "sampling", "converge", "fill")
    match name:
        case "methods":
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
        case "settings":
            return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        case "map_size":
            return isinstance(value, list) and len(value) == 2 and all(whole(side, _LONGEST_SIDE) for side in value)
        case "masks" | "reference_masks":
            return whole(value, _MOST_MASKS)
        case "seed":
            return whole(value, _LARGEST_SEED)
        case "converge":
            return type(value) in (int, float) and math.isfinite(value)
        case "explain":
            return value in ("query", "reference", "both")
        case "perturb":
            return value in get_args(Perturb)
        case "contrast":
            return isinstance(value, bool)
        case _:
            return isinstance(value, str)


_LONGEST_SIDE = 4096  # of a stored map
_MOST_MASKS = 10**7
_LARGEST_SEED = 2**63 - 1


def check_bundle(options: AuditOptions, bundle: Bundle) -> None:
    """UsageError where a method asks for what the bundle does not have, or cannot do what the options ask with it."""
    for explainer in options.explainers():
        method = explainer.method
        if bundle.conditions and explainer.converges:
            raise UsageError(
                "--converge stops where the maps of all pairs of an image have converged, but the conditions of this "
                f"bundle ({listed(tuple(bundle.conditions), 5)}) share an image's passes, and one needs more of them "
                "than another: leave --converge out, and say how many with --masks"
            )
        if method.needs in ("gradient", "projection") and getattr(bundle, method.needs) is None:
            raise UsageError(
                f"--method {method.name} needs the bundle's {method.needs}, and it has none: "
                f"{bundle.missing.get(method.needs, 'it is not known why')}"
            )
        if explainer.contrast and bundle.similarity_function == "euclidean":
            raise UsageError(
                "--contrast subtracts a mean similarity, and a negative Euclidean distance has no such mean"
            )
        if method.needs == "projection" and bundle.similarity_function == "euclidean":
            raise UsageError(
                f"--method {method.name}: a negative Euclidean distance is no sum over positions; take another method"
            )


def plan_memory(
    options: AuditOptions, bundle: Bundle, device: Literal["cpu", "cuda"]
) -> tuple[memory.MemoryPlan, bool]:
    """The memory that one worker needs, and whether it may keep its mask banks; UsageError where it cannot fit."""
    explainers = options.explainers()
    for hold in (True, False):
        planned = _planned(explainers, options, bundle, device, hold)
        if planned.total <= options.memory_limit:
            return planned, hold
    raise UsageError(
        f"this configuration needs {memory.megabytes(planned.total)} a worker, more than --memory-limit "
        f"{memory.megabytes(options.memory_limit)}: {memory.megabytes(planned.decode)} for decoding images of up to "
        f"{options.max_pixels:,} pixels, {memory.megabytes(planned.embeddings)} for embeddings of masked images, "
        f"{memory.megabytes(planned.estimate)} for maps. Take fewer masks, methods or --max-pixels, or raise the limit."
    )


def _planned(
    explainers: tuple[Explainer, ...],
    options: AuditOptions,
    bundle: Bundle,
    device: Literal["cpu", "cuda"],
    hold: bool,
) -> memory.MemoryPlan:
    """One method is estimated after the other, but the banks that are kept are kept at once, and so are embeddings."""
    plans = [_plan_of(explainer, options, bundle, device, hold) for explainer in explainers]
    others = options.reference_masks if options.masked() else 0
    return memory.MemoryPlan(
        bank=(sum if hold else max)(plan.bank for plan in plans),
        embeddings=sum(plan.embeddings for plan in plans)
        + memory.reference_bytes(
            others, bundle.embedding_size, CHUNK, bundle.similarity_function, len(bundle.conditions)
        ),
        estimate=max(plan.estimate for plan in plans),
        decode=max(plan.decode for plan in plans),
    )


def _plan_of(
    explainer: Explainer, options: AuditOptions, bundle: Bundle, device: Literal["cpu", "cuda"], hold: bool
) -> memory.MemoryPlan:
    method: Any = explainer.method
    batch = options.batch or memory.DEFAULT_BATCH[device]
    masks, banks, grid = batch, 0, 1
    try:
        if method.needs == "masks":
            masks, banks = method.design(bundle.resize.size, 0).n, method.banks
    except ValueError as error:
        raise UsageError(f"--method {method.name}: this bundle's frame and the options do not fit: {error}") from None
    if isinstance(method, LimeMethod):
        masks, grid = method.samples, SEGMENTS
    if isinstance(method, RiseMethod):
        grid = method.cells**2
    planned = memory.plan(
        masks=masks,
        banks=banks,
        size=bundle.resize.size,
        batch=batch,
        dimension=bundle.embedding_size,
        chunk=CHUNK,
        grid=grid,
        max_pixels=options.max_pixels,
        hold=hold and banks > 0,
        conditions=bool(bundle.conditions),
    )
    if method.needs == "gradient":
        planned = replace(planned, estimate=planned.estimate + memory.gradient_bytes(bundle.resize.size, PAIRS))
    return planned


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"--{name.replace('_', '-')} must be {expected}, not {value!r}")


def redacted(value: Any) -> Any:
    """``value`` as it may stand in a table: texts in it, however deep in lists and mappings, without credentials."""
    if isinstance(value, (str, Path)):
        return storage.redact(str(value))
    if isinstance(value, (tuple, list)):
        return [redacted(item) for item in value]
    if isinstance(value, Mapping):
        return {redacted(key): redacted(item) for key, item in value.items()}
    return value
