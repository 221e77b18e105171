"""``whymatch bundle``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from pipeline.options import shared
from pipeline.options.command_line import Command
from pipeline.options.declaration import CONFIG, Option, Options
from pipeline.options.formats import Three, TwoPaths


@dataclass(frozen=True, config=CONFIG)
class BundleOptions(Options):
    """The options of ``whymatch bundle``."""

    similarity_onnx: Annotated[Path, Option("the embedding network", metavar="FILE")]
    out: shared.NewBundle
    attributes_onnx: Annotated[Path | None, Option("the attribute network: scores and maps", metavar="FILE")] = None
    vocabulary: Annotated[Path | None, Option("attribute names, column=value, one a line", metavar="FILE")] = None
    input: Annotated[str | None, Option("name of the network's input, where it has several")] = None
    output: Annotated[str | None, Option("name of the embedding output, where it has several")] = None
    layout: Annotated[Literal["nchw", "nhwc"] | None, Option("order of the input's axes")] = None
    channels: Annotated[Literal["rgb", "bgr"] | None, Option("order of the input's channels")] = None
    scale: Annotated[float | None, Option("pixels 0…255 are multiplied by this first, such as 0.00392156863")] = None
    mean: Annotated[
        Three | None, Option("subtracted after scaling, in the network's channel order", metavar="R,G,B")
    ] = None
    std: Annotated[Three | None, Option("divided by, in the network's channel order", metavar="R,G,B")] = None
    size: shared.InputSize | None = None
    resize: shared.Fitting | None = None
    shorter: shared.Shorter = None
    interpolation: shared.Interpolation | None = None
    similarity_function: Annotated[Literal["cosine", "dot", "euclidean"], Option("of embeddings")] = "cosine"
    attributes_input: Annotated[
        str | None, Option("the attribute network's input, where it has several", metavar="NAME")
    ] = None
    scores_output: Annotated[str | None, Option("its scores [B,A], where they cannot be told", metavar="NAME")] = None
    maps_output: Annotated[
        str | None, Option("its activation maps [B,A,h,w], where they cannot be told", metavar="NAME")
    ] = None
    activation: Annotated[Literal["none", "sigmoid", "softmax"], Option("from scores to 0…1")] = "none"
    preprocessor_config: Annotated[Path | None, Option("where it is not beside the ONNX file", metavar="FILE")] = None
    check: Annotated[
        TwoPaths | None,
        Option("compare with your own pipeline's embedding", metavar=("IMAGE", "EMBEDDING.npy")),
    ] = None
    check_tolerance: Annotated[float, Option("largest difference allowed, at length 1")] = 1e-3


def _run(options: BundleOptions) -> int:
    from export.bundling.check_embedding import ExpectedEmbedding
    from export.bundling.from_onnx import AttributeFlags, BundleRequest, bundle_command
    from export.bundling.preprocessing_settings import PreprocessingFlags

    check = None
    if options.check:
        image, embedding = options.check
        check = ExpectedEmbedding(image, embedding, options.check_tolerance)
    names = "similarity_onnx out input output preprocessor_config similarity_function"
    bundle_command(
        BundleRequest(
            **{name: getattr(options, name) for name in names.split()},
            preprocessing=_chosen(options, PreprocessingFlags),
            attributes=_chosen(options, AttributeFlags),
            check=check,
        )
    )
    return 0


def _chosen(options: BundleOptions, flags: Any) -> Any:
    """The dataclass ``flags`` of the options that bear the names of its fields."""
    return flags(**{one.name: getattr(options, one.name) for one in fields(flags)})


COMMAND = Command(
    "bundle",
    BundleOptions,
    _run,
    "make a model bundle of your own ONNX files, without torch (needs the extra 'onnx')",
    "Nothing is guessed: settings come from these options or from a preprocessor_config.json beside the file, "
    "and what was used is printed.",
)
