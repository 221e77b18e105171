"""The attribute network's supervision by saliency maps: reading them from an audit's tables, and the losses.

B. Plummer et al., "Why do These Match? Explaining the Behavior of Image Similarity Models", ECCV 2020 (arXiv
1905.10797), section 3.2: what made a similarity model match an image with others should be what its attributes are seen
by, so the activation map of one of its attributes is drawn to each of its saliency maps.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from export.training.data import Echo, Indices, warp
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize, frame_of
from transforms.core.records import Float32, Product, content_id
from transforms.tables import runs

COLUMNS = (
    *("pair_id", "query_id", "reference_id", "side", "method", "explainer_id", "model_id", "similarity"),
    *("map", "map_height", "map_width", "input_height", "input_width", "original_height", "original_width"),
    *("crop_top", "crop_left", "crop_height", "crop_width"),
)


@dataclass(frozen=True)
class SaliencyMaps:
    """The saliency maps of a data set's products.

    ``maps`` is float32 [T, s, t], those of one product after another; product i has ``maps[first[i] : first[i + 1]]``,
    none where it was not explained. ``source`` says where they come from, JSON values only.
    """

    maps: Float32
    first: Indices  # [I + 1]
    source: Mapping[str, Any]

    def of(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Maps float32 [B, K, s, t] of some products, filled up with zeros, and which of them are real, bool [B, K]."""
        counts = self.first[indices + 1] - self.first[indices]
        size = max(1, int(counts.max(initial=0)))
        rows = np.minimum(self.first[indices][:, None] + np.arange(size), max(0, len(self.maps) - 1))
        real = torch.from_numpy(np.arange(size) < counts[:, None])
        if not len(self.maps):
            return torch.zeros(len(indices), 1, 1, 1), real
        return torch.from_numpy(self.maps[rows]) * real[:, :, None, None], real


def read_saliency(
    folders: Sequence[str], products: Sequence[Product], resize: Resize, *, limit: int = 20, echo: Echo = print
) -> SaliencyMaps:
    """The maps that finished audits wrote to the tables in ``folders``, for those of ``products`` that train, by id.

    Both products of a pair must train: what another split's image matched must not shape the network. An explanation
    that several runs made counts once, as the first of them has it. Of a product with more than ``limit`` maps those
    with the smallest hash of their keys are kept, the same in whatever order they are read. Tables are read in
    batches; what is held are the kept maps.

    Raises:
      UsageError: no finished run, a table that cannot be read, no map of a pair of the products, maps of several
        methods or explainers in a folder, maps of several sizes, maps that are not of finite numbers, or maps of
        another input frame than ``resize`` gives, which would mark other pixels than the network sees.
    """
    wanted = {product.id: index for index, product in enumerate(products) if product.split == "train"}
    kept: dict[int, list[tuple[int, str]]] = {}
    maps_of: dict[tuple[int, str], Float32] = {}
    sources = [_Source(folder) for folder in folders]
    seen = others = crossing = 0
    for source in sources:
        for run in runs.complete(source.folder):
            for row, cells in _rows(run):
                sides = (row["query_id"], row["reference_id"])
                explained, other = sides[::-1] if row["side"] == "reference" else sides
                index = wanted.get(explained)
                if index is None:
                    others += 1
                    continue
                if other not in wanted:
                    crossing += 1
                    continue
                _check_frame(row, resize, source.folder)
                saliency = runs.saliency_map(cells, row["map_height"], row["map_width"])
                if saliency is None:
                    raise UsageError(
                        f"{storage.shown(source.folder)}: the map of pair {row['pair_id']} in run {run.id} is none of "
                        f"{row['map_height']}x{row['map_width']} finite numbers; a NaN means a broken model. Audit "
                        "again"
                    )
                source.add(row, run.id)
                seen += 1
                key = content_id(row["pair_id"], row["explainer_id"], row["model_id"], row["side"], letter="")
                if (index, key) in maps_of:
                    continue
                heap = kept.setdefault(index, [])
                entry = (-int(key[:15], 16), key)  # the heap's first is the one to go
                if len(heap) < limit:
                    heapq.heappush(heap, entry)
                elif entry[0] > heap[0][0]:
                    del maps_of[index, heapq.heapreplace(heap, entry)[1]]
                else:
                    continue
                maps_of[index, key] = saliency
    unused = f"{others:,} of products that do not train, {crossing:,} of pairs with one that does not"
    if not kept:
        raise UsageError(
            f"{', '.join(map(storage.shown, folders))}: no map is of a pair of products that train; not used: {unused}."
            " The audit's manifest must name products by the catalogue's ids, both of its train split"
        )
    for source in sources:
        source.check()
    ordered = [[maps_of[i, key] for _, key in sorted(kept.get(i, []), reverse=True)] for i in range(len(products))]
    sizes = {saliency.shape for some in ordered for saliency in some}
    if len(sizes) > 1:
        raise UsageError(f"the maps have several sizes, {sorted(sizes)}: audit with one --map-size")
    maps = np.stack([saliency for some in ordered for saliency in some])
    first = np.concatenate([[0], np.cumsum([len(some) for some in ordered])]).astype(np.int64)
    echo(f"{len(maps):,} saliency maps of {len(kept):,} products supervise; {seen:,} were read; not used: {unused}")
    found = {
        "maps": len(maps),
        "products": len(kept),
        "models": sorted({model for source in sources for model in source.explainers}),
        "methods": sorted({method for source in sources for method in source.methods}),
        "explainers": sorted({one for source in sources for some in source.explainers.values() for one in some}),
        "runs": sorted({run_id for source in sources for run_id in source.run_ids}),
        "limit": limit,
    }
    return SaliencyMaps(maps, first, found)


def explanations(folder: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The table ``explanations`` of the finished runs in ``folder``, in batches; UsageError where there is none."""
    for run in runs.complete(folder):
        yield from run.batches(columns)


@dataclass
class _Source:
    """What the maps of one folder that supervise were made by. ``explainers`` are those of each model."""

    folder: str
    methods: set[str] = field(default_factory=set)
    explainers: dict[str, set[str]] = field(default_factory=dict)
    run_ids: set[str] = field(default_factory=set)

    def add(self, row: Mapping[str, Any], run_id: str) -> None:
        """Counts in a map that supervises."""
        self.methods.add(row["method"])
        self.explainers.setdefault(row["model_id"], set()).add(row["explainer_id"])
        self.run_ids.add(run_id)

    def check(self) -> None:
        """UsageError where they were made in several ways."""
        several = [("methods", self.methods), *((f"explainers of {one}", of) for one, of in self.explainers.items())]
        for what, names in several:
            if len(names) > 1:
                raise UsageError(
                    f"the maps in {storage.shown(self.folder)} are of several {what}: {', '.join(sorted(names))}. They "
                    "would supervise together: audit into separate folders, and name the one that should"
                )


def _rows(run: runs.Run) -> Iterator[tuple[dict[str, Any], pa.ListScalar]]:
    """Every explanation of a run: its columns but the map, and the map's cells."""
    for batch in run.batches(COLUMNS, may_lack=("map", "map_height", "map_width")):
        values = batch.column("map")
        for at, row in enumerate(batch.drop_columns(["map"]).to_pylist()):
            yield row, values[at]


def _check_frame(row: Mapping[str, Any], resize: Resize, folder: str) -> None:
    frame = frame_of((row["original_height"], row["original_width"]), resize)
    box = (row["crop_top"], row["crop_left"], row["crop_height"], row["crop_width"])
    if (row["input_height"], row["input_width"]) != frame.size or not np.allclose(box, frame.box, atol=1e-6):
        raise UsageError(
            f"the maps in {storage.shown(folder)} are of an input frame of {row['input_height']}x{row['input_width']} "
            f"that shows {json.dumps(box)} of an image; this training's shows {json.dumps(frame.box)} at "
            f"{frame.size[0]}x{frame.size[1]}: train with the --size, --resize and --shorter of the audited bundle"
        )


def saliency_loss(
    evidence: Tensor,
    maps: Tensor,
    real: Tensor,
    has: Tensor,
    *,
    affine: Tensor | None = None,
    temperature: float | None = None,
) -> Tensor:
    """L_hm (equation 2): how far, on average, each saliency map is from the nearest activation map of the image's own.

    Both are made distributions over the positions by a softmax; the distance is the L2 norm of their difference. A map
    of an image without a known attribute does not count; with no map at all the loss is 0.

    Args:
      evidence: activation maps [B, A, h, w] before the softmax.
      maps: saliency maps [B, K, s, t]; ``real`` bool [B, K] says which are there. Averaged over cells to h x w.
      has: bool [B, A], the attributes of each image.
      affine: how augmentation moved the images (``export.training.data.warp``): the maps move with them.
      temperature: None takes the maps as they are, as the paper's code does. A number brings each map to mean 0 and
        standard deviation 1 / ``temperature`` first: a map of cosines is nearly flat after a softmax.
    """
    if affine is not None:
        maps = warp(maps, affine)
    small = functional.interpolate(maps, size=evidence.shape[2:], mode="area").flatten(2)  # [B, K, P]
    if temperature is not None:
        centred = small - small.mean(dim=2, keepdim=True)
        spread = centred.square().mean(dim=2, keepdim=True).sqrt()
        small = torch.where(spread > 1e-12, centred / (spread * temperature).clamp(min=1e-12), 0.0)
    wanted = small.softmax(dim=2)
    given = evidence.flatten(2).softmax(dim=2)  # [B, A, P]
    inner = wanted @ given.transpose(1, 2)  # [B, K, A]
    squares = wanted.square().sum(2)[:, :, None] + given.square().sum(2)[:, None, :] - 2 * inner
    # the root's slope is infinite at 0, where the two are equal
    distances = squares.clamp(min=1e-12).sqrt().masked_fill(~has[:, None, :], torch.inf)
    counted = real & has.any(dim=1, keepdim=True)
    nearest = distances.amin(dim=2)[counted]
    return nearest.mean() if nearest.numel() else evidence.sum() * 0


def attribute_smooth_l1(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """L_att (equation 1): smooth L1 between softmax(logits) and uniform mass over the image's attributes.

    The mean over images and attributes of 0.5 d^2 where |d| < 1, else |d| - 0.5, as in the paper's code. ``logits``,
    ``targets`` (0 or 1) and ``known`` (bool) are [B, A]. What is not known of an image is left out of its softmax, and
    an image of which no attribute is known to be there does not count; none at all gives 0.
    """
    positive = (targets > 0) & known
    counted = positive.any(dim=1)
    mass = positive.float() / positive.sum(dim=1, keepdim=True).clamp(min=1)
    given = logits.masked_fill(~known, -torch.inf).softmax(dim=1)
    losses = functional.smooth_l1_loss(given, mass, reduction="none")[known & counted[:, None]]
    return losses.mean() if losses.numel() else logits.sum() * 0
