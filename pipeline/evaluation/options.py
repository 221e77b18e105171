"""What an evaluation is asked to do: one frozen dataclass, validated before anything runs.

Nothing else is imported with it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, FiniteFloat
from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.declaration import CONFIG, Heading, Option
from pipeline.options.formats import Names, NamesOrNone, Repeated
from pipeline.runs.runners import LOCAL, RunnerProfile, profile_of
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from transforms import storage
    from transforms.core.metrics.removal import Removal

WHAT = Heading("what to measure")
HOW = Heading("how to measure")
KNOWN = Heading("what is known of the products")


def _named_by_time(_: Mapping[str, Any]) -> str:
    return f"evaluation-{datetime.now(UTC):%Y%m%dT%H%M%S}"


def _measures() -> str:
    from transforms.core.metrics.registry import told_requests

    return told_requests()


def _differ(name: str, given: tuple[str, ...]) -> None:
    if len(set(given)) < len(given):
        raise UsageError(f"--{name} names one twice: {', '.join(given)}")


def _fills(given: tuple[str, ...]) -> tuple[str, ...]:
    """Fills in one spelling: a colour may be written in two ways, and would be measured twice."""
    from transforms.core.imaging.fill import check_fill

    for fill in given:
        try:
            check_fill(fill)
        except ValueError as error:
            raise UsageError(f"--fills: {error}") from None
    fills = tuple(fill.lower() for fill in given)
    _differ("fills", fills)
    return fills


@dataclass(frozen=True, config=CONFIG)
class EvaluateOptions(shared.DecodingOptions):
    """The options of ``whymatch evaluate``."""

    tables: Annotated[
        str,
        Option("the --out of the audits; the table metrics is written there", metavar="DIR", positional=True),
        WHAT,
    ]
    bundle: Annotated[str, Option("model bundle that was audited"), WHAT]
    evaluation_id: Annotated[
        str,
        Option("name of this evaluation; the time when left out", expected=shared.A_NAME, left_out=_named_by_time),
        Field(pattern=shared.NAME),
        WHAT,
    ]
    run_id: Annotated[shared.WhichRun, WHAT] = None
    metrics: Annotated[
        Names,
        Option(_measures, metavar="NAME,…"),
        WHAT,
    ] = ("insertion", "deletion")
    methods: Annotated[Names, Option("whose maps", flag="--method", metavar="NAME,…"), WHAT] = ()
    sample: Annotated[shared.SampleRate, WHAT] = 1.0
    sampling_seed: Annotated[shared.NotNegative, Option("seed of that draw"), WHAT] = 0

    maps: Annotated[
        Literal["stored", "full"],
        Option("the maps of the table, or maps made again at the size of the network's input"),
        HOW,
    ] = "stored"
    controls: Annotated[
        NamesOrNone,
        Option(
            "maps that explain nothing, measured beside: random, centre, edges, stranger (another query's map; beside "
            "stored maps only); none for none",
            metavar="NAME,…",
        ),
        HOW,
    ] = ("random", "centre", "stranger")
    fills: Annotated[
        Names,
        Option(
            "insertion, deletion: what hides pixels: #rrggbb, mean, auto, blur",
            metavar="FILL,…",
            expected="at least one fill",
        ),
        Field(min_length=1),
        AfterValidator(_fills),
        HOW,
    ] = ("#ffffff",)
    noise: Annotated[
        FiniteFloat,
        Option("noise: its standard deviation, in levels of 255", expected="above 0, in levels of 255"),
        Field(gt=0),
        HOW,
    ] = 5.0
    stages: Annotated[
        int,
        Option("sanity: randomised copies of the network, 3 at least", expected="at least 3: the head, half, all"),
        Field(ge=3),
        HOW,
    ] = 6
    scratch: Annotated[
        str | None,
        Option("sanity: where other runners' workers find these copies; nothing is removed there afterwards"),
        HOW,
    ] = None
    seed: Annotated[shared.NotNegative, Option("seed of what is drawn"), HOW] = 0

    catalogue: Annotated[str | None, Option("attributes, and label images in the column regions"), KNOWN] = None
    region: Annotated[str | None, Option("the region, or attribute column, that a map should find"), KNOWN] = None
    legend: Annotated[
        str | None, Option("JSON file that names labels; regions.json beside the catalogue when left out"), KNOWN
    ] = None
    tolerance: Annotated[
        FiniteFloat,
        Option("pointing: pixels that a peak may miss by", expected="at least 0 pixels"),
        Field(ge=0),
        KNOWN,
    ] = 0.0
    split: Annotated[
        str | None, Option("removal, average_precision: only products of this split of the catalogue"), KNOWN
    ] = None
    neighbours: Annotated[int, Option("removal: products that stand for a query without an attribute"), KNOWN] = 5
    max_distance: Annotated[int, Option("removal: other columns in which these may differ from the query"), KNOWN] = 0

    max_agreement: Annotated[
        FiniteFloat,
        Option(
            "sanity: exit with 1 where maps agree more with those of a network half of whose blocks are random",
            expected="a correlation, from -1 to 1",
        ),
        Field(ge=-1, le=1),
        shared.LIMITS,
    ] = 0.5
    max_failure_rate: Annotated[
        shared.Share,
        Option(
            "exit with 1 where more of a method's rows of a metric have no value; those that cannot be judged do not "
            "count"
        ),
        shared.LIMITS,
    ] = 0.05
    max_pixels: Annotated[shared.MaxPixels, shared.LIMITS] = 64_000_000
    max_bytes: Annotated[shared.MaxBytes, shared.LIMITS] = 32 * 2**20
    memory_limit: Annotated[shared.MemoryLimit, shared.LIMITS] = 6 * 2**30

    report: Annotated[
        str | None,
        Option("summary and pictures of the curves (needs the extra 'report')", metavar="FOLDER"),
        shared.WHERE,
    ] = None
    runner: Annotated[shared.Runner, shared.WHERE] = LOCAL.name
    workers: Annotated[shared.Workers, shared.WHERE] = 1
    batch: Annotated[shared.Batch, Field(ge=1), shared.WHERE] = None
    shards: Annotated[shared.Shards, shared.WHERE] = 8
    image_roots: Annotated[
        Repeated,
        Option(
            "local folder that images may lie in, besides the catalogue's; required for local images",
            flag="--image-root",
            metavar="FOLDER",
        ),
        shared.WHERE,
    ] = ()
    allow_http: Annotated[shared.AllowHttp, shared.WHERE] = False
    device: Annotated[shared.Device, shared.WHERE] = "auto"
    threads: Annotated[shared.AtLeastOne, Option(shared.THREADS, left_out=shared.shared_threads), shared.WHERE] = 1
    beam_args: shared.BeamArgs = ()

    def __post_init__(self) -> None:
        from transforms.core.metrics.registry import needing, requests
        from transforms.core.saliency.controls import CONTROLS, UNRELATED

        _among("metrics", self.metrics, requests())
        _among("controls", self.controls, (*CONTROLS, UNRELATED), may_be_empty=True)
        self.removal()
        if self.asks(*needing("regions")) and not (self.catalogue and self.region):
            asked = ", ".join(needing("regions"))
            raise UsageError(
                f"{asked} need --catalogue with a column 'regions', the address of each product's label "
                "image, and --region, the name of the region that a map should find"
            )
        if self.asks(*needing("attributes")) and not self.catalogue:
            asked = " and ".join(needing("attributes"))
            raise UsageError(f"{asked} need --catalogue, which says what attributes products have")
        if self.maps == "full" and self.asks(*needing("stored maps")):
            asked = ", ".join(needing("stored maps"))
            raise UsageError(f"{asked} compares with another query's map of the table: leave --maps full out")
        if self.asks(*needing("cascade")) and not self.profile.here and not self.scratch:
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
        from transforms.core.metrics.registry import CURVES, REGIONS, needing, requests

        return self.asks(*requests(CURVES, REGIONS), *needing("cascade"))

    @property
    def with_unrelated(self) -> bool:
        """Whether another query's map is measured beside: a map of the table, so only beside those of the table."""
        from transforms.core.metrics.registry import CURVES, REGIONS, requests
        from transforms.core.saliency.controls import UNRELATED

        return UNRELATED in self.controls and self.maps == "stored" and self.asks(*requests(CURVES, REGIONS))

    def removal(self) -> Removal:
        """Which products stand for a query without an attribute; UsageError for numbers that cannot be."""
        from transforms.core.metrics.removal import Removal

        try:
            return Removal(self.neighbours, max_distance=self.max_distance)
        except ValueError as error:
            raise UsageError(f"--neighbours {self.neighbours} --max-distance {self.max_distance}: {error}") from None

    def access(self) -> storage.Access:
        """What image addresses may name: files beside the catalogue and in ``image_roots``."""
        from transforms import storage
        from transforms.storage.addresses import is_local, local_path

        named = [self.catalogue] if self.catalogue and is_local(self.catalogue) else []
        beside = (os.path.dirname(os.path.abspath(local_path(address))) for address in named)
        roots = (os.path.abspath(local_path(root)) for root in self.image_roots)
        return storage.Access((*roots, *beside), allow_http=self.allow_http, max_bytes=self.max_bytes)


def _among(name: str, given: tuple[str, ...], known: tuple[str, ...], *, may_be_empty: bool = False) -> None:
    unknown = [one for one in given if one not in known]
    if unknown or not (given or may_be_empty):
        raise UsageError(f"--{name} must be one or more of {', '.join(known)}, not {unknown or given!r}")
    _differ(name, given)
