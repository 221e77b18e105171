"""Options that many commands have in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from pipeline.options.declaration import Heading, Option, Options
from pipeline.options.formats import Bytes, Repeated, Size, Words
from pipeline.runs.runners import LOCAL, RUNNERS, profile_of

if TYPE_CHECKING:
    from transforms.core.imaging.images import ImageLimits

AtLeastOne = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]

WHERE = Heading("where to run")
LIMITS = Heading("limits")

THREADS = "CPU threads a process; the cores shared among workers when left out"
NAME = r"^[A-Za-z][A-Za-z0-9._-]{0,99}$"
A_NAME = "a letter, then at most 99 letters, digits, '.', '_' or '-'"

Device = Annotated[Literal["cpu", "cuda", "auto"], Option("cuda fails where it cannot run")]
Threads = Annotated[int | None, Option(THREADS)]
Batch = Annotated[int | None, Option("forward passes at once; 16 on a CPU, 256 on a GPU")]
Workers = Annotated[AtLeastOne, Option("processes of the local runner")]
Shards = Annotated[AtLeastOne, Option("files a table")]
if TYPE_CHECKING:
    RunnerName = str
else:
    RunnerName = Literal[tuple(RUNNERS)]  # the profiles say which there are
Runner = Annotated[RunnerName, Option("Beam runner")]
BeamArgs = Annotated[Repeated, Option("Arguments after -- go to Beam's runner.", flag="--", recorded=False)]
MaxPixels = Annotated[AtLeastOne, Option("of an image")]
MaxBytes = Annotated[AtLeastOne, Option("of an image file")]
MemoryLimit = Annotated[Bytes, Option("of a worker, such as 4G", metavar="SIZE")]
SampleRate = Annotated[
    FiniteFloat, Option("share of the queries, drawn whole by a hash", metavar="RATE"), Field(gt=0, le=1)
]
WhichRun = Annotated[str | None, Option("which run; the one that was started last when left out")]
Manifest = Annotated[
    Words,
    Option("CSV, JSONL or Parquet files or globs of pairs", expected="at least one address"),
    Field(min_length=1),
]
BesideTheManifest = Annotated[
    Repeated,
    Option(
        "local folder that images may lie in, besides the manifest's and the catalogue's",
        flag="--image-root",
        metavar="FOLDER",
    ),
]
ManifestAllowsHttp = Annotated[bool, Option("let the manifest name http(s) addresses of public hosts")]
AllowHttp = Annotated[bool, Option("let images lie at http(s) addresses of public hosts")]
Tables = Annotated[str, Option("the --out of the audits", metavar="DIR", positional=True)]
Rendering = Annotated[Literal["table", "csv", "json"], Option("of the answer")]

Catalogue = Annotated[str, Option("CSV, JSONL or Parquet with id, image and attribute columns")]
RankedBundle = Annotated[Path, Option("model bundle with attributes, a local folder")]
NewBundle = Annotated[Path, Option("folder to write", metavar="BUNDLE")]
BesideTheCatalogue = Annotated[
    Repeated,
    Option("local folder that images may lie in, besides the catalogue's", flag="--image-root", metavar="FOLDER"),
]

Fitting = Annotated[Literal["squash", "crop", "pad"], Option("how an image is fitted")]
Interpolation = Annotated[Literal["nearest", "bilinear", "bicubic", "lanczos"], Option("of the resize")]
Shorter = Annotated[int | None, Option("with crop: the shorter side before the centre crop", metavar="PIXELS")]
InputSize = Annotated[Size, Option("input size", metavar="HxW")]


def shared_threads(values: Mapping[str, Any]) -> int:
    """This machine's cores shared among the workers."""
    return profile_of(values.get("runner", LOCAL.name)).threads(values.get("workers", 1))


class DecodingOptions(Options):
    """The options of a command that decodes images, which have a ``max_pixels``."""

    max_pixels: MaxPixels

    def limits(self) -> ImageLimits:
        """What is decoded at most."""
        from transforms.core.imaging.images import ImageLimits

        return ImageLimits(max_pixels=self.max_pixels)
