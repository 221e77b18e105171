"""The saliency maps that supervise an attribute network, from the tables of audits over training pairs."""

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

from export.training.data.dataset import Indices
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize, frame_of
from transforms.core.messages import Echo
from transforms.core.records import Float32, Product, content_id
from transforms.tables import runs

_COLUMNS = (
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


def require_audits(folders: Sequence[str]) -> None:
    """UsageError for a folder without a finished audit, before images are decoded."""
    for folder in folders:
        if not any(file.endswith(".parquet") for file in storage.list_files(storage.join(folder, "runs"))):
            raise UsageError(
                f"--saliency: {storage.shown(folder)} holds no finished audit: name the folder that was --out of one"
            )


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
    kept, unused = _KeptMaps(limit), _UnusedRows()
    origins = [_Origin(folder) for folder in folders]
    read = 0
    for origin in origins:
        for run, index, row, cells in _supervising_rows(origin.folder, wanted, unused):
            _check_frame(row, resize, origin.folder)
            saliency = _map_of(row, cells, origin.folder, run.id)
            origin.add(row, run.id)
            kept.add(index, row, saliency)
            read += 1
    if not read:
        raise UsageError(
            f"{', '.join(map(storage.shown, folders))}: no map is of a pair of products that train; not used: {unused}."
            " The audit's manifest must name products by the catalogue's ids, both of its train split"
        )
    for origin in origins:
        origin.check()
    maps, first = kept.stacked(len(products))
    explained = int(np.count_nonzero(np.diff(first)))
    echo(f"{len(maps):,} saliency maps of {explained:,} products supervise; {read:,} were read; not used: {unused}")
    source = {"maps": len(maps), "products": explained, **_origins_record(origins), "limit": limit}
    return SaliencyMaps(maps, first, source)


@dataclass
class _UnusedRows:
    """How many explanations cannot supervise, by the reason."""

    others: int = 0
    crossing: int = 0

    def __str__(self) -> str:
        return f"{self.others:,} of products that do not train, {self.crossing:,} of pairs with one that does not"


class _KeptMaps:
    """The maps of each product, at most ``limit``: those with the smallest hash of their explanations' keys."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # A heap for each product, the first of which is the one to go: the largest hash.
        self._keys: dict[int, list[tuple[int, str]]] = {}
        self._maps: dict[tuple[int, str], Float32] = {}

    def add(self, index: int, row: Mapping[str, Any], saliency: Float32) -> None:
        """Keeps the map of the product ``index``, unless its explanation is there already or others come first."""
        key = content_id(row["pair_id"], row["explainer_id"], row["model_id"], row["side"], letter="")
        if (index, key) in self._maps:
            return
        heap = self._keys.setdefault(index, [])
        entry = (-int(key[:15], 16), key)
        if len(heap) < self._limit:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            del self._maps[index, heapq.heapreplace(heap, entry)[1]]
        else:
            return
        self._maps[index, key] = saliency

    def stacked(self, products: int) -> tuple[Float32, Indices]:
        """The maps [T, s, t] and where each product's begin [I + 1]; UsageError where they have several sizes."""
        keys = [sorted(self._keys.get(index, []), reverse=True) for index in range(products)]
        ordered = [self._maps[index, key] for index, some in enumerate(keys) for _, key in some]
        sizes = {saliency.shape for saliency in ordered}
        if len(sizes) > 1:
            raise UsageError(f"the maps have several sizes, {sorted(sizes)}: audit with one --map-size")
        return np.stack(ordered), np.concatenate([[0], np.cumsum([len(some) for some in keys])]).astype(np.int64)


@dataclass
class _Origin:
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


def _origins_record(origins: Sequence[_Origin]) -> dict[str, list[str]]:
    """What a bundle says of where its maps come from, JSON values only."""
    return {
        "models": sorted({model for origin in origins for model in origin.explainers}),
        "methods": sorted({method for origin in origins for method in origin.methods}),
        "explainers": sorted({one for origin in origins for some in origin.explainers.values() for one in some}),
        "runs": sorted({run_id for origin in origins for run_id in origin.run_ids}),
    }


def _supervising_rows(
    folder: str, wanted: Mapping[str, int], unused: _UnusedRows
) -> Iterator[tuple[runs.Run, int, dict[str, Any], pa.ListScalar]]:
    """The explanations of a folder's finished runs whose two products are ``wanted``; the others are counted.

    Each with its run, the index of the product that it explains, and the cells of its map.
    """
    for run in runs.complete(folder):
        for row, cells in _rows(run):
            sides = (row["query_id"], row["reference_id"])
            explained, other = sides[::-1] if row["side"] == "reference" else sides
            if explained not in wanted:
                unused.others += 1
            elif other not in wanted:
                unused.crossing += 1
            else:
                yield run, wanted[explained], row, cells


def _rows(run: runs.Run) -> Iterator[tuple[dict[str, Any], pa.ListScalar]]:
    """Every explanation of a run: its columns but the map, and the map's cells."""
    for batch in run.batches(_COLUMNS, may_lack=("map", "map_height", "map_width")):
        values = batch.column("map")
        for at, row in enumerate(batch.drop_columns(["map"]).to_pylist()):
            yield row, values[at]


def _map_of(row: Mapping[str, Any], cells: pa.ListScalar, folder: str, run_id: str) -> Float32:
    """The map of an explanation; UsageError where it is none."""
    saliency = runs.saliency_map(cells, row["map_height"], row["map_width"])
    if saliency is None:
        raise UsageError(
            f"{storage.shown(folder)}: the map of pair {row['pair_id']} in run {run_id} is none of "
            f"{row['map_height']}x{row['map_width']} finite numbers; a NaN means a broken model. Audit again"
        )
    return saliency


def _check_frame(row: Mapping[str, Any], resize: Resize, folder: str) -> None:
    frame = frame_of((row["original_height"], row["original_width"]), resize)
    box = (row["crop_top"], row["crop_left"], row["crop_height"], row["crop_width"])
    if (row["input_height"], row["input_width"]) != frame.size or not np.allclose(box, frame.box, atol=1e-6):
        raise UsageError(
            f"the maps in {storage.shown(folder)} are of an input frame of {row['input_height']}x{row['input_width']} "
            f"that shows {json.dumps(box)} of an image; this training's shows {json.dumps(frame.box)} at "
            f"{frame.size[0]}x{frame.size[1]}: train with the --size, --resize and --shorter of the audited bundle"
        )
