"""Networks in, graphs out: a user's file with its data, its input as declared, and what a bundle records of a graph."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import uses_external_data

from export.bundling.preprocessing import Preprocessing
from export.graphs.network_file import Source, image_input, load, shape, tensors
from transforms.core.errors import BundleError
from transforms.serving import bundle


def load_into(network: str | Path | onnx.ModelProto, folder: Path, stem: str) -> Source:
    """``network``, with copies in ``folder`` of what data it keeps outside of its file."""
    source = load(network)
    renamed = {name: f"{stem}-{index}.data" for index, name in enumerate(source.external)}
    for name, file in source.external.items():
        shutil.copyfile(file, folder / renamed[name])
    for tensor in tensors(source.model) if renamed else ():
        for entry in tensor.external_data if uses_external_data(tensor) else ():
            if entry.key == "location":
                entry.value = renamed[entry.value]
    return Source(source.model, {name: folder / name for name in renamed.values()})


def image_entry(
    model: onnx.ModelProto, name: str | None, preprocessing: Preprocessing, size: tuple[int, int]
) -> onnx.ValueInfoProto:
    """The image input; BundleError where its declared shape contradicts layout or size."""
    entry = image_input(model, name)
    height, width = size
    wanted = (None, 3, height, width) if preprocessing.layout == "nchw" else (None, height, width, 3)
    for declared, expected in zip(shape(entry), wanted, strict=False):
        if None not in (declared, expected) and declared != expected:
            raise BundleError(
                f"input {entry.name!r} takes {shape_text(shape(entry))}, but layout {preprocessing.layout} and size "
                f"{height}x{width} give {shape_text(wanted)}: correct --layout or --size"
            )
    return entry


def write_graph(
    wrapped: onnx.ModelProto,
    source: Source,
    folder: Path,
    stem: str,
    *,
    batch: int | None,
    kind: str,
    record: Mapping[str, Any],
    parity: float | None = None,
) -> bundle.Network:
    """Writes ``wrapped`` to ``stem``.onnx in ``folder``, beside the data of ``source``; returns its record."""
    file = folder / f"{stem}.onnx"
    file.write_bytes(wrapped.SerializeToString(deterministic=True))
    return bundle.Network(
        files={name: bundle.file_sha256(folder / name) for name in (file.name, *source.external)},
        batch=batch,
        precision="float16" if kind == "float16" else "float32",
        preprocessing=record,
        parity=parity,
    )


def record_preprocessing(preprocessing: Preprocessing, **names: str) -> dict[str, Any]:
    """What bundle.json says of what stands in front of a network, and the ``names`` of its ends."""
    return {
        "layout": preprocessing.layout,
        "channels": preprocessing.channels,
        "scale": preprocessing.scale,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        **names,
    }


def outputs_text(model: onnx.ModelProto) -> str:
    """The outputs of ``model`` with their shapes, for a message."""
    return ", ".join(f"{value.name} {shape_text(shape(value))}" for value in model.graph.output)


def shape_text(dims: tuple[int | None, ...]) -> str:
    """A shape as messages have it, such as [?,3,12,16]."""
    return "[" + ",".join("?" if dim is None else str(dim) for dim in dims) + "]"
