"""The gradient of the similarity made ready to serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.bundling.gradient_prefix import wrap_gradient
from export.bundling.preprocessing import Preprocessing
from export.bundling.serve.graph_files import record_preprocessing, write_graph
from export.graphs.network_file import Source, shape
from transforms.core.errors import BundleError
from transforms.core.records import Float32
from transforms.serving import bundle, runtime

_BATCH = 8  # of a gradient whose rows depend on the batch they are in, so that it is always the same


def serve_gradient(
    core: onnx.ModelProto, preprocessing: Preprocessing, size: tuple[int, int], folder: Path
) -> bundle.Network:
    """Writes gradient.onnx around ``core`` (``export.bundling.gradient_prefix``) for the input ``size`` and returns its
    record.

    ONNX Runtime may take other kernels for other batches, a matrix-vector product for a single row, say. Where rows
    come out otherwise in another batch, in their last bits only, the record holds one batch for all.
    Raises BundleError where the graph does not run, or fails for some batches.
    """
    wrapped = wrap_gradient(core, preprocessing=preprocessing, size=size)
    fixed = wrapped.graph.input[1].type.tensor_type.shape.dim[0].dim_value or None
    record = record_preprocessing(preprocessing)
    written = write_graph(wrapped, Source(wrapped), folder, "gradient", batch=fixed, kind="float32", record=record)
    session = runtime.session(folder / written.file)
    rows = fixed or _BATCH
    rng = np.random.default_rng(0)
    feeds = {
        "image": rng.integers(0, 256, (rows, *size, 3), dtype=np.uint8),
        "mask": rng.random((rows, *size), dtype=np.float32),
        "fill": np.zeros((1, 1, 1, 3), np.float32),
        "noise": np.zeros((1, 1, 1, 3), np.float32),
        "reference": rng.normal(size=(rows, shape(wrapped.graph.input[4])[1] or 1)).astype(np.float32),
    }
    whole = _gradients(session, feeds, slice(0, rows))
    if fixed is None and not all(
        np.array_equal(some, all_of_them[part])
        for part in (slice(0, 1), slice(2, 4), slice(3, 6), slice(3, rows))
        for some, all_of_them in zip(_gradients(session, feeds, part), whole, strict=True)
    ):
        return replace(written, batch=_BATCH)
    return written


def _gradients(session: Any, feeds: Mapping[str, Any], part: slice) -> list[Float32]:
    rows = {name: values[part] if len(values) > 1 else values for name, values in feeds.items()}
    try:
        results: list[Float32] = session.run(["similarity", "gradient", "embedding"], rows)
    except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
        raise BundleError(f"ONNX Runtime cannot run the gradient: {str(error).strip().splitlines()[0]}") from None
    return results
