"""Tables of an audit with saliency maps that supervise a training, without an audit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from transforms import tables
from transforms.core.imaging.images import Resize, frame_of

RESIZE = Resize((12, 8), "squash")


def row(query: str, reference: str, *, value: float, side: str | None = "query", **changed: Any) -> tables.Row:
    frame = frame_of((30, 20), RESIZE)
    map_ = np.full(6, value, np.float32)
    names = ("border_share", "border_area", "background_share", "background_area", "entropy", "weight", "similarity")
    box = dict(zip(("crop_top", "crop_left", "crop_height", "crop_width"), frame.box, strict=True))
    sizes = {"input_height": 12, "input_width": 8, "original_height": 30, "original_width": 20, "passes": 1}
    return {
        **dict.fromkeys(names, 0.0),
        **box,
        **sizes,
        "pair_id": f"p{query}{reference}{side}",
        "query_id": query,
        "reference_id": reference,
        "query": f"{query}.png",
        "reference": f"{reference}.png",
        "side": side,
        "method": "rise",
        "explainer_id": "e1",
        "model_id": "m1",
        "map": map_,
        "map_height": 3,
        "map_width": 2,
        "peak_row": 0,
        "peak_column": 0,
        "fill": "auto",
        "provider": "CPU",
        "stratum": "all",
        **changed,
    }


def write(folder: Path, rows: list[tables.Row], run_id: str = "r1", finished: bool = True) -> str:
    for table in ("explanations", "runs")[: 2 if finished else 1]:
        place = Path(tables.folder(str(folder), table, run_id))
        place.mkdir(parents=True)
        if table == "explanations":
            for shard, some in enumerate((rows[::2], rows[1::2])):
                pq.write_table(tables.to_arrow(table, some), place / tables.part(shard))
        else:
            now = datetime.now(UTC)
            numbers = ("rows_read", "pairs_explained", "pairs_failed", "pairs_not_sampled", "explanations")
            content = {
                **dict.fromkeys((*numbers, "queries", "images", "forward_passes"), 0),
                "started": now,
                "finished": now,
                **dict.fromkeys(("whymatch_version", "versions", "configuration", "model_id"), "x"),
                "explainer_ids": ["e1"],
            }
            pq.write_table(tables.to_arrow(table, [content]), place / tables.part(0))
    return str(folder)
