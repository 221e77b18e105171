"""What a run is asked to do: one frozen dataclass, validated before anything runs.

Nothing else is imported with it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.declaration import CONFIG, Declared, Heading, Option, declared
from pipeline.options.formats import Columns, Names, Settings, Size
from pipeline.runs.runners import LOCAL, RunnerProfile, profile_of
from transforms.core.errors import UsageError
from transforms.core.messages import quoted

if TYPE_CHECKING:
    from transforms import storage
    from transforms.core.records import Side
    from transforms.core.saliency.explainer import Explainer, ReferenceMasks

DATA = Heading("what to explain")
QUERIES = Heading("which queries")
HOW = Heading("how to explain")

_MOST_MASKS = 10**7
_LARGEST_SEED = 2**63 - 1
_LONGEST_SIDE = 4096  # of a stored map


def _named_by_time(_: Mapping[str, Any]) -> str:
    return f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}"


@dataclass(frozen=True, config=CONFIG)
class AuditOptions(shared.DecodingOptions):
    """The options of ``whymatch audit``."""

    manifest: Annotated[shared.Manifest, DATA]
    bundle: Annotated[str, Option("model bundle"), DATA]
    out: Annotated[str, Option("folder of the tables; many runs share one"), DATA]
    run_id: Annotated[
        str,
        Option("name of this run; the time when left out", expected=shared.A_NAME, left_out=_named_by_time),
        Field(pattern=shared.NAME),
        DATA,
    ]
    period: Annotated[
        str | None, Option("what the manifest covers, such as 2026-10; goes into the table runs"), DATA
    ] = None
    catalogue: Annotated[
        str | None, Option("resolves ids to images, and says which attributes a product has"), DATA
    ] = None
    columns: Annotated[Columns, Option("such as query_id=anchor_sku", metavar="OURS=YOURS,…"), DATA] = field(
        default_factory=dict
    )
    keep: Annotated[Names, Option("manifest columns to keep, as JSON in `extra`", metavar="COLUMN,…"), DATA] = ()
    image_roots: Annotated[shared.BesideTheManifest, DATA] = ()
    allow_http: Annotated[shared.ManifestAllowsHttp, DATA] = False

    sample: Annotated[shared.SampleRate, QUERIES] = 1.0
    sampling_seed: Annotated[shared.NotNegative, Option("seed of that draw; keep it from month to month"), QUERIES] = 0
    stratify: Annotated[
        str | None,
        Option("draw by the values of this column of the manifest, or of the catalogue", metavar="COLUMN"),
        QUERIES,
    ] = None
    min_queries: Annotated[
        shared.NotNegative, Option("queries of each stratum at least, where it has them", metavar="N"), QUERIES
    ] = 0
    budget_passes: Annotated[
        int | None,
        Option("lower the rate until so many forward passes are enough", metavar="N"),
        Field(ge=1),
        QUERIES,
    ] = None

    methods: Annotated[
        Names,
        Option(
            "saliency methods, a row each: rise, sliding_window, sbsm, lime, mask, gradient_x_input, "
            "integrated_gradients, decomposition",
            flag="--method",
            metavar="NAME,…",
            explains=True,
        ),
        HOW,
    ] = ("rise",)
    masks: Annotated[
        int | None,
        Option("RISE: masks an image (default: 512)", explains=True, most_recorded=_MOST_MASKS),
        HOW,
    ] = None
    sampling: Annotated[
        Literal["independent", "sobol", "hadamard"] | None,
        Option("RISE: how masks are drawn (default: hadamard)", explains=True),
        HOW,
    ] = None
    converge: Annotated[
        float | None,
        Option(
            "RISE: stop where two halves of the masks give maps that correlate R, for all references of the image",
            metavar="R",
            explains=True,
        ),
        HOW,
    ] = None
    settings: Annotated[
        Settings,
        Option(
            "any other parameter of a method; docs/methods.md has them all",
            flag="--set",
            metavar="METHOD.PARAMETER=VALUE",
            explains=True,
        ),
        HOW,
    ] = field(default_factory=dict)
    explain: Annotated[
        Literal["query", "reference", "both"], Option("which of a pair's images", explains=True), HOW
    ] = "query"
    perturb: Annotated[
        Literal["query", "both"],
        Option("the explained image only, or the one that it is compared with too", explains=True),
        HOW,
    ] = "query"
    reference_masks: Annotated[
        shared.AtLeastOne,
        Option("with --perturb both: masked versions of the other image", explains=True, most_recorded=_MOST_MASKS),
        HOW,
    ] = 30
    fill: Annotated[
        str | None,
        Option(
            "what hides a pixel: auto (the image's border colour), mean, blur, #rrggbb (default: auto; blur for mask)",
            explains=True,
        ),
        HOW,
    ] = None
    contrast: Annotated[
        bool,
        Option(
            "explain the similarity less its mean over 64 random references: what is particular to the pair",
            explains=True,
        ),
        HOW,
    ] = False
    false_alarm_rate: Annotated[
        FiniteFloat,
        Option(
            "share of shuffled pairs that may be called explained; it sets what `explained` asks for", metavar="RATE"
        ),
        Field(gt=0, lt=1),
        HOW,
    ] = 0.05
    legend: Annotated[
        str | None,
        Option("JSON file that names the labels of label images; regions.json beside the catalogue when left out"),
        HOW,
    ] = None
    seed: Annotated[
        shared.NotNegative,
        Option("seed of every random draw", explains=True, most_recorded=_LARGEST_SEED),
        HOW,
    ] = 0
    top: Annotated[shared.AtLeastOne, Option("attributes kept a pair"), HOW] = 5
    map_size: Annotated[
        Size,
        Option(
            "size of the stored maps",
            metavar="HxW",
            expected="at least 1x1",
            explains=True,
            most_recorded=_LONGEST_SIDE,
        ),
        HOW,
    ] = (28, 28)

    max_failure_rate: Annotated[
        shared.Share,
        Option(
            "exit with 1 where more pairs fail, of the catalogue as estimated, or of a stratum's sampled pairs; of "
            "fewer than 20 of these two at least must fail"
        ),
        shared.LIMITS,
    ] = 0.05
    score_tolerance: Annotated[
        FiniteFloat,
        Option(
            "exit with 2 before anything is explained where over 1% of the first 512 served scores, and three at "
            "least or all, are further off"
        ),
        Field(ge=0),
        shared.LIMITS,
    ] = 0.01
    max_pixels: Annotated[shared.MaxPixels, shared.LIMITS] = 64_000_000
    max_bytes: Annotated[shared.MaxBytes, shared.LIMITS] = 32 * 2**20
    memory_limit: Annotated[shared.MemoryLimit, shared.LIMITS] = 6 * 2**30

    runner: Annotated[shared.Runner, shared.WHERE] = LOCAL.name
    workers: Annotated[shared.Workers, shared.WHERE] = 1
    batch: Annotated[shared.Batch, Field(ge=1), shared.WHERE] = None
    shards: Annotated[shared.Shards, shared.WHERE] = 8
    store_embeddings: Annotated[bool, Option("keep embeddings in the table images"), shared.WHERE] = False
    device: Annotated[shared.Device, shared.WHERE] = "auto"
    threads: Annotated[shared.AtLeastOne, Option(shared.THREADS, left_out=shared.shared_threads), shared.WHERE] = 1
    beam_args: shared.BeamArgs = ()

    def __post_init__(self) -> None:
        from transforms.explaining.check_explainer import check_setting_fill
        from transforms.inputs import manifest

        if unknown := sorted(self.columns.keys() - set(manifest.COLUMNS)):
            raise UsageError(f"--columns must be among {', '.join(manifest.COLUMNS)}, not {unknown!r}")
        if self.fill is not None:
            check_setting_fill(self.fill)  # also where no method hides anything
        self.explainers()

    @property
    def profile(self) -> RunnerProfile:
        """What is known of the runner."""
        return profile_of(self.runner)

    def explainers(self) -> tuple[Explainer, ...]:
        """The methods with their parameters, fills, and what they perturb; UsageError for values they cannot have."""
        from pipeline.audit.explainers import explainers_of

        return explainers_of(self)

    def sides(self) -> tuple[Side, ...]:
        """Which of a pair's images are explained."""
        return ("query", "reference") if self.explain == "both" else (self.explain,)

    def masked(self) -> ReferenceMasks | None:
        """How the image that another is compared with is perturbed, None where it is not."""
        from pipeline.audit.explainers import masked

        return masked(self)

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

    def access(self, files: tuple[str, ...]) -> storage.Access:
        """What image addresses may name: local files beside ``files`` and the catalogue, and in ``image_roots``."""
        from transforms import storage
        from transforms.storage.addresses import is_local, local_path

        named = filter(is_local, (*files, *filter(None, [self.catalogue])))
        beside = (os.path.dirname(os.path.abspath(local_path(address))) for address in named)
        roots = (os.path.abspath(local_path(root)) for root in self.image_roots)
        return storage.Access((*roots, *beside), allow_http=self.allow_http, max_bytes=self.max_bytes)


def explaining(configuration: Mapping[str, Any], **changes: Any) -> AuditOptions:
    """How the run of that recorded ``configuration`` explained, with ``changes``, as options of an audit of nothing.

    UsageError, and nothing else, where the record holds what no audit can be asked for: tables may be of anybody.
    """
    recorded = [one for one in declared(AuditOptions) if one.option.explains and one.name in configuration]
    try:
        given = {one.name: _believed(one, configuration[one.name]) for one in recorded}
        return AuditOptions(("none",), "none", "none", "none", **{**given, **changes})
    except (TypeError, ValueError, OverflowError, UsageError) as error:
        raise UsageError(f"the run's record does not say how it explained: {error}. Audit again.") from None


def _believed(option: Declared, value: Any) -> Any:
    """The ``value`` that a run recorded of an option; UsageError where no audit can have recorded it."""
    most = math.inf if option.option.most_recorded is None else option.option.most_recorded
    with suppress(UsageError):
        checked = option.check(value)
        if all(math.isfinite(one) and one <= most for one in _numbers(checked)):
            return checked
    raise UsageError(f"its {option.name.replace('_', ' ')} is {quoted(repr(value))}")


def _numbers(value: Any) -> list[float]:
    return [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, (int, float))]
