"""Does `whymatch check` tell the model that served from others, and name what is wrong?

Writes docs/benchmarks/served.md:

    python -m benchmarks.audits.served --catalogue PRODUCTS.csv [--work build/served]

The service is written as one would be, with torch and torchvision and nothing of whymatch: EfficientNet-Lite0 with
ImageNet weights, Resize and CenterCrop of PIL images, cosines of its pooled features. Its frame is not square.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from benchmarks.support.efficientnet_lite import efficientnet_lite0
from benchmarks.support.machine import markdown_table, paragraph, processor, versions, write
from export.bundling.from_onnx import BundleRequest, bundle_command
from export.bundling.from_torch import to_onnx
from export.bundling.preprocessing_settings import PreprocessingFlags
from pipeline import cli
from transforms.core.records import Float64, Product, content_id
from transforms.inputs import catalogue

SIZE = (128, 96)
"""The network's frame, height and width."""

SHORTER = 110
"""The shorter side before the centre crop: 96 * 256 / 224."""

_RIGHT: dict[str, Any] = {
    "layout": "nchw",
    "channels": "rgb",
    "scale": 1.0,
    "mean": (127.0, 127.0, 127.0),
    "std": (128.0, 128.0, 128.0),
    "size": SIZE,
    "resize": "crop",
    "shorter": SHORTER,
    "interpolation": "bilinear",
}
_IMAGENET: dict[str, Any] = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF: dict[str, Any] = {"scale": 1 / 255, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_SQUASH: dict[str, Any] = {"resize": "squash", "shorter": None}


class Pooled(nn.Module):
    """EfficientNet-Lite0's features, averaged: [B, 3, H, W] to [B, 1280]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk: Any = efficientnet_lite0()

    def forward(self, image: Tensor) -> Tensor:
        pooled: Tensor = self.trunk.extract_features(image).mean(dim=(2, 3))
        return pooled


@dataclass(frozen=True)
class Case:
    """A bundle whose settings differ from the service's by ``bundle``, and what the service wrote as scores."""

    name: str
    bundle: dict[str, Any]
    scores: str = "served"


_NOT_TOLD = """Two things are not told apart or not named. A mean and deviation of 0.5, of 0 to 1, differ from 127 and
128, of 0 to 255, by so little that no score is off: such a bundle passes, and should. A resize without antialias is no
setting of a bundle; it is found, but shares its message with a stale index."""

CASES = (
    Case("the right bundle", {}),
    Case("squash for crop --shorter 110", _SQUASH),
    Case("crop without --shorter 110", {"shorter": None}),
    Case("BGR for RGB", {"channels": "bgr"}),
    Case("ImageNet's mean and deviation for (x - 127) / 128", _IMAGENET),
    Case("mean and deviation 0.5, of 0 to 1, for (x - 127) / 128", _HALF),
    Case("0 to 1 for (x - 127) / 128", {"scale": 1 / 255, "mean": (0.0,) * 3, "std": (1.0,) * 3}),
    Case("nearest for bilinear", {"interpolation": "nearest"}),
    Case("bicubic for bilinear", {"interpolation": "bicubic"}),
    Case("squash and BGR", {**_SQUASH, "channels": "bgr"}),
    Case("squash and ImageNet's normalisation", {**_SQUASH, **_IMAGENET}),
    Case("right, but cosine distances served", {}, "distance"),
    Case("squash, and cosine distances served", _SQUASH, "distance"),
    Case("right, but scores of other weights", {}, "other weights"),
    Case("right, but a fifth of the scores of other weights", {}, "partly other weights"),
    Case("right, but the service resizes without antialias", {}, "no antialias"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes the page."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)
    products = _products(options.catalogue, options.products)
    network = Pooled().eval().requires_grad_(False)
    file = options.work / "network.onnx"
    onnx.save(to_onnx(network, SIZE, ("embedding",)), file)
    manifests = _manifests(network, products, options.work)
    rows = []
    for number, case in enumerate(CASES):
        bundle = _bundle(file, case, options.work / f"bundle-{number}-{int(time.time())}")
        code, out, seconds = _check(bundle, manifests[case.scores], options)
        rows.append(_row(case, code, out, seconds))
        print(" | ".join(rows[-1]), flush=True)
    write(options.out, _page(rows, len(products), time.monotonic() - started))
    return 0


def _products(address: str, count: int) -> list[Product]:
    """The ``count`` products with the smallest hash of their id, the same in every order of the catalogue."""
    products = [item for item in catalogue.read(address, columns=()) if isinstance(item, Product)]
    return sorted(products, key=lambda product: content_id(product.id, letter="s"))[:count]


def _bundle(file: Path, case: Case, out: Path) -> Path:
    flags = PreprocessingFlags(**{**_RIGHT, **case.bundle})
    bundle_command(BundleRequest(file, out, preprocessing=flags), echo=lambda _: None)
    return out


def _service(network: nn.Module, products: Sequence[Product], *, antialias: bool = True) -> Float64:
    """What the service has in its index: unit vectors [I, 1280]."""
    resize: list[Callable[..., Any]] = [v2.Resize(SHORTER), v2.CenterCrop(SIZE), v2.PILToTensor()]
    if not antialias:  # of tensors, as after torchvision.io.read_image
        resize = [v2.PILToTensor(), v2.Resize(SHORTER, antialias=False), v2.CenterCrop(SIZE)]
    prepare = v2.Compose([*resize, v2.ToDtype(torch.float32), v2.Normalize([127.0] * 3, [128.0] * 3)])
    vectors = []
    with torch.no_grad():
        for product in products:
            with Image.open(product.image) as image:
                vectors.append(network(prepare(image.convert("RGB"))[None])[0].double().numpy())
    stacked = np.stack(vectors)
    unit: Float64 = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    return unit


def _manifests(network: nn.Module, products: Sequence[Product], work: Path) -> dict[str, Path]:
    """The manifests, by what is written as scores: of 128 queries the 4 products that the service finds first."""
    index = _service(network, products)
    cosines = index[:128] @ index.T
    np.fill_diagonal(cosines, -np.inf)
    pairs = [(query, int(found)) for query, row in enumerate(cosines) for found in np.argsort(-row)[:4]]
    other = Pooled().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in other.parameters():
        weight.add_(0.05 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator))
    old, sharp = _service(other, products), _service(network, products, antialias=False)
    served = [float(index[a] @ index[b]) for a, b in pairs]
    stale = [float(old[a] @ old[b]) for a, b in pairs]
    mixed = [b if at % 5 == 0 else a for at, (a, b) in enumerate(zip(served, stale, strict=True))]
    scores = {
        "served": served,
        "distance": [1 - score for score in served],
        "other weights": stale,
        "partly other weights": mixed,
        "no antialias": [float(sharp[a] @ sharp[b]) for a, b in pairs],
    }
    out = {}
    for name, values in scores.items():
        out[name] = work / f"{name.replace(' ', '-')}.csv"
        with out[name].open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["query_id", "reference_id", "served_score"])
            writer.writerows(
                [products[a].id, products[b].id, f"{score:.6f}"] for (a, b), score in zip(pairs, values, strict=True)
            )
    return out


def _check(bundle: Path, manifest: Path, options: argparse.Namespace) -> tuple[int, str, float]:
    """Exit code, all that was printed, and seconds of ``whymatch check``."""
    said = io.StringIO()
    given = ["--manifest", str(manifest), "--bundle", str(bundle), "--catalogue", options.catalogue]
    started = time.monotonic()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(["check", *given, "--device", "cpu", "--threads", str(options.threads)])
    return code, said.getvalue(), time.monotonic() - started


def _row(case: Case, code: int, out: str, seconds: float) -> list[str]:
    compared = _found(r"compared: (\d+) pairs, (\d+) off", out)
    median, largest = _found(r"difference: median (\S+), 95th percentile \S+, largest (\S+)", out)
    (correlation,) = _found(r"recomputed scores: (\S+)\n", out)
    cause = re.search(r"Likely cause: the served scores fit this bundle (.*?) \(median difference (\S+) over", out)
    named = f"fits {cause[1]} ({cause[2]})" if cause else ""
    if not cause and code:
        tail = out.partition("None of the ")[2].partition(" fits. ")[2]
        named = "none of the settings; " + tail.strip()
    share = f"{100 * int(compared[1]) / int(compared[0]):.1f} %"
    return [case.name, str(code), share, median, largest, correlation, named, f"{seconds:.0f}"]


def _found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"`whymatch check` did not print {pattern!r}, but:\n{text}")
    return match.groups()


def _page(rows: Sequence[Sequence[str]], products: int, seconds: float) -> str:
    header = ["bundle", "exit", "pairs off", "median", "largest", "rank corr.", "named as the cause", "s"]
    return "\n\n".join(
        [
            "# Is a bundle that is not the model that served found?",
            f"{time.strftime('%Y-%m-%d')}, {processor()}; {seconds / 60:.0f} min. "
            f"{versions('torch', 'torchvision', 'onnxruntime', 'pillow')}. Made by",
            "    python -m benchmarks.audits.served --catalogue products.csv",
            paragraph(
                f"The service is torch and torchvision only: EfficientNet-Lite0 with ImageNet weights on frames of "
                f"{SIZE[0]} x {SIZE[1]} (`v2.Resize({SHORTER})`, `v2.CenterCrop`, (x - 127) / 128), the pooled 1,280 "
                f"features, cosines. It served 512 pairs, of 128 queries the 4 nearest of {products} photographs of "
                "the catalogue of `examples/fashion`. Each bundle is made by `whymatch bundle` from the same ONNX file "
                "with settings that differ as told, and `whymatch check` is run with its defaults. *Off*: by more than "
                "0.01; *median* and *largest*: of the absolute differences; in brackets behind a cause: the median "
                "difference that is left with it. *Other weights*: 5 % of each tensor's deviation added as noise."
            ),
            markdown_table(header, rows),
            paragraph(_NOT_TOLD),
            "",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogue", required=True, help="a catalogue of photographs, with local files")
    parser.add_argument("--products", type=int, default=400, help="photographs of it that the service has")
    parser.add_argument("--work", type=Path, default=Path("build/served"), help="folder of bundles and manifests")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/served.md"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
