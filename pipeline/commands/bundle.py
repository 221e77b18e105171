"""``whymatch bundle``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.commands import values
from pipeline.commands.common import INTERPOLATIONS, command


def add(commands: Any) -> None:
    parser = command(
        commands,
        "bundle",
        _run_bundle,
        "make a model bundle of your own ONNX files, without torch (needs the extra 'onnx')",
        "Nothing is guessed: settings come from these options or from a preprocessor_config.json beside the file, "
        "and what was used is printed.",
    )
    parser.add_argument("--similarity-onnx", required=True, type=Path, metavar="FILE", help="the embedding network")
    parser.add_argument("--attributes-onnx", type=Path, metavar="FILE", help="the attribute network: scores and maps")
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help="attribute names, column=value, one a line")
    parser.add_argument("--out", required=True, type=Path, metavar="BUNDLE", help="folder to write")
    parser.add_argument("--input", help="name of the network's input, where it has several")
    parser.add_argument("--output", help="name of the embedding output, where it has several")
    parser.add_argument("--layout", choices=("nchw", "nhwc"), help="order of the input's axes")
    parser.add_argument("--channels", choices=("rgb", "bgr"), help="order of the input's channels")
    parser.add_argument("--scale", type=float, help="pixels 0…255 are multiplied by this first, such as 0.00392156863")
    parser.add_argument(
        "--mean", type=values.three, metavar="R,G,B", help="subtracted after scaling, in the network's channel order"
    )
    parser.add_argument("--std", type=values.three, metavar="R,G,B", help="divided by, in the network's channel order")
    parser.add_argument("--size", type=values.size, metavar="HxW", help="input size")
    parser.add_argument("--resize", choices=("squash", "crop", "pad"), help="how an image is fitted")
    parser.add_argument(
        "--shorter", type=int, metavar="PIXELS", help="with crop: the shorter side before the centre crop"
    )
    parser.add_argument("--interpolation", choices=INTERPOLATIONS, help="of the resize")
    parser.add_argument(
        "--similarity-function", choices=("cosine", "dot", "euclidean"), default="cosine", help="of embeddings"
    )
    parser.add_argument(
        "--attributes-input", metavar="NAME", help="the attribute network's input, where it has several"
    )
    parser.add_argument("--scores-output", metavar="NAME", help="its scores [B,A], where they cannot be told")
    parser.add_argument(
        "--maps-output", metavar="NAME", help="its activation maps [B,A,h,w], where they cannot be told"
    )
    parser.add_argument(
        "--activation", choices=("none", "sigmoid", "softmax"), default="none", help="from scores to 0…1"
    )
    parser.add_argument("--preprocessor-config", type=Path, metavar="FILE", help="where it is not beside the ONNX file")
    parser.add_argument(
        "--check",
        nargs=2,
        type=Path,
        metavar=("IMAGE", "EMBEDDING.npy"),
        help="compare with your own pipeline's embedding",
    )
    parser.add_argument("--check-tolerance", type=float, default=1e-3, help="largest difference allowed, at length 1")


def _run_bundle(options: argparse.Namespace) -> int:
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


def _chosen(options: argparse.Namespace, flags: Any) -> Any:
    """The dataclass ``flags`` of the options that bear the names of its fields."""
    return flags(**{field.name: getattr(options, field.name) for field in fields(flags)})
