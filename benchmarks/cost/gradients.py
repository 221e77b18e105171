"""Is the gradient graph torch's gradient, and what does a pass of it cost? ``python -m benchmarks.cost.gradients
--help``.

Every draw has an image, a mask, a fill and a reference of its own. Errors are relative to the same pixel's gradient in
torch's float64; torch's own float32 stands beside ours, because a unit that switches at a rounding changes all of a
row, there as here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.machine import markdown_table, paragraph, processor, versions, write
from export.training.networks.checkpoint import load
from transforms.core.records import Float64
from transforms.core.saliency.rise import rise
from transforms.serving import bundle as bundles
from transforms.serving.gradient_model import GradientModel
from transforms.serving.similarity_model import SimilarityModel


def main(arguments: list[str] | None = None) -> int:
    """Measures and writes the page."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows, speeds = [], []
    for one in options.networks:
        name, bundle, checkpoint = one.split("=")
        with tempfile.TemporaryDirectory() as folder:
            held = bundles.fetch(bundle, Path(folder))
            opened: Any = (held, Path(folder), "cpu", options.threads, options.batch)
            gradient, similarity = GradientModel(*opened), SimilarityModel(*opened)
        config, network = load(Path(checkpoint), "similarity", factories=options.factory)
        network.eval().requires_grad_(False)
        size = config.resize.size
        drawn = _draw(size, options.draws, held.embedding_size)
        exact = _by_torch(network.double(), config.normalisation, drawn, torch.float64)
        plain = _by_torch(network.float(), config.normalisation, drawn, torch.float32)
        images, fills, masks, references = drawn
        ours = gradient.at(images, fills)(masks, references)[1].astype(np.float64)
        for label, found, judge in (
            ("ours, against torch's float32", ours, plain),
            ("ours, against torch's float64", ours, exact),
            ("torch's float32, against its float64", plain, exact),
        ):
            error = np.median(np.abs(found - judge) / np.abs(judge), axis=(1, 2))
            correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found, judge, strict=True)]
            rows.append(
                [
                    f"{name}: {label}",
                    f"{np.median(error):.1e}",
                    f"{(error < 1e-4).mean():.0%}",
                    f"{np.median(correlation):.6f}",
                    f"{(np.array(correlation) > 0.999).mean():.0%}",
                ]
            )
        batch = slice(0, options.batch)
        one_pass = {
            "forward": lambda: similarity.embed(images[batch]),  # noqa: B023  # timed in this turn of the loop
            "gradient": lambda: gradient.at(images[batch], fills[batch])(masks[batch], references[batch]),  # noqa: B023
            "torch": lambda: _by_torch(network, config.normalisation, tuple(d[batch] for d in drawn), torch.float32),  # noqa: B023
        }
        times = _interleaved(one_pass, options.rounds)
        forward, ours_time, torch_time = (
            np.median(times[key]) / options.batch for key in ("forward", "gradient", "torch")
        )
        speeds.append(
            [
                name,
                f"{1e3 * forward:.1f}",
                f"{1e3 * ours_time:.1f}",
                f"{ours_time / forward:.1f}",
                f"{torch_time / ours_time:.1f}",
            ]
        )
    accuracy = markdown_table(
        ["network", "median relative error", "draws under 1e-4", "median correlation", "draws over 0.999"], rows
    )
    speed = markdown_table(
        ["network", "forward, ms an image", "gradient, ms an image", "gradient / forward", "torch's gradient / ours"],
        speeds,
    )
    how = f"""{options.draws} draws a network, each with an image, a mask of 8 × 8 cells, a fill and a reference of its
        own. The median relative error is the median over draws of the median over pixels. Times are medians of
        {options.rounds} rounds in turn, batches of {options.batch}, {options.threads} threads."""
    machine = f"{processor()}. {versions('torch', 'onnxruntime', 'onnxruntime-gpu')}."
    made = f"{machine} Made by `python -m benchmarks.cost.gradients`."
    page = ["# The gradient graph against torch", paragraph(made), paragraph(how), accuracy, speed]
    write(options.out, "\n\n".join(page) + "\n")
    return 0


Drawn = tuple[Any, ...]


def _draw(size: tuple[int, int], rows: int, dimension: int) -> Drawn:
    """Images uint8, half noise and half smooth, fills, masks and unit references."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, *size, 3), dtype=np.uint8)
    coarse = torch.from_numpy(rng.uniform(0, 255, (rows // 2, 3, 7, 7)))
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").permute(0, 2, 3, 1).numpy()
    images[: len(smooth)] = smooth.astype(np.uint8)
    fills = rng.uniform(0, 255, (rows, 1, 1, 3)).astype(np.float32)
    masks = rise(size, masks=rows, sampling="independent").masks(0, rows)
    references = rng.normal(size=(rows, dimension))
    return images, fills, masks, (references / np.linalg.norm(references, axis=1, keepdims=True)).astype(np.float32)


def _by_torch(network: Any, normalisation: Any, drawn: Drawn, dtype: torch.dtype) -> Float64:
    """The gradient [B, H, W] of the cosine with respect to the mask, by the definition."""
    images, fills, masks, references = (torch.from_numpy(np.ascontiguousarray(part)) for part in drawn)
    mask = masks.to(dtype).requires_grad_(True)
    pixels = mask[..., None] * images.to(dtype) + (1 - mask[..., None]) * fills.to(dtype)
    mean, std = (torch.tensor(part, dtype=dtype) for part in (normalisation.mean, normalisation.std))
    embedding = network(((pixels * normalisation.scale - mean) / std).permute(0, 3, 1, 2))
    scores = (torch.nn.functional.normalize(embedding, dim=1) * references.to(dtype)).sum()
    (slope,) = torch.autograd.grad(scores, mask)
    found: Float64 = slope.numpy().astype(np.float64)
    return found


def _interleaved(passes: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds + 1):
        for name, run in passes.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: found[1:] for name, found in times.items()}  # the first round warms up


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost.gradients",
        description="Compares bundles' gradient graphs with torch's gradient of the checkpoints they were made from.",
    )
    parser.add_argument("networks", nargs="+", metavar="NAME=BUNDLE=CHECKPOINT")
    parser.add_argument("--factory", action="append", default=[], metavar="MODULE:FACTORY")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/gradients.md"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
