"""A similarity network made ready to serve, and its projection where it has one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from export.bundling.bundle_spec import SimilarityGraph
from export.bundling.prefix import wrap_similarity
from export.bundling.serve.graph_files import (
    image_entry,
    load_into,
    outputs_text,
    record_preprocessing,
    shape_text,
    write_graph,
)
from export.bundling.serve.probing import Opener, ServedGraph, compare, random_images
from export.graphs import batching
from export.graphs.linear_head import NoProjection, Projection, project, projection_graph
from export.graphs.network_file import Source, pick_output, precision
from transforms.core.errors import BundleError
from transforms.core.records import Float32
from transforms.serving import bundle, runtime

_SMALLEST = {"float32": 1e-12, "float16": 6.1e-5}  # below lie numbers with fewer digits, or none
_TINY = 1e-12  # the smallest length that an embedding is divided by, as in the graph


@dataclass(frozen=True)
class ServedSimilarity:
    """The record of similarity.onnx, the embedding's size D, and the record of projection.onnx or why there is none."""

    network: bundle.Network
    embedding_size: int
    projection: bundle.Network | str


def serve_similarity(
    given: SimilarityGraph, size: tuple[int, int], folder: Path, *, normalise: bool
) -> ServedSimilarity:
    """Writes similarity.onnx for the input ``size`` into ``folder``, and projection.onnx where there is a projection.

    ``normalise`` ends the graph in the L2 norm. BundleError where the network cannot serve.
    """
    bare = _run_bare(given, size, folder)
    expected = _normalised(bare.embeddings) if normalise else bare.embeddings
    projection = _find_projection(bare, folder, normalise=normalise)
    wrapped = wrap_similarity(
        bare.settled.network,
        preprocessing=given.preprocessing,
        size=size,
        input=bare.entry.name,
        output=bare.output,
        normalise=normalise,
        features=None if isinstance(projection, str) else projection.features,
    )
    wrapped.graph.output[0].type.tensor_type.shape.dim[1].dim_value = expected.shape[1]
    served = write_graph(
        wrapped,
        bare.source,
        folder,
        "similarity",
        batch=bare.settled.batch,
        kind=precision(bare.entry),
        record=record_preprocessing(given.preprocessing, input=bare.entry.name, output=bare.output),
        parity=given.parity,
    )
    unmasked = {"mask": np.ones((1, *size, 1), np.float32), "fill": np.zeros((1, 1, 1, 3), np.float32)}
    graph = ServedGraph(runtime.session(folder / served.file), served.batch, ("embedding",), unmasked)
    images = random_images(size)
    compare("embedding", graph.run(images)[0], expected, served.precision)
    served = replace(served, batch_invariant=graph.batch_invariant(images))
    if isinstance(projection, str):
        return ServedSimilarity(served, expected.shape[1], projection)
    features = replace(graph, outputs=("features",)).run(images)[0]
    written = _write_projection(projection, features, expected, folder, normalise=normalise)
    return ServedSimilarity(served, expected.shape[1], written)


@dataclass(frozen=True)
class _BareNetwork:
    """A network before anything is put around it: file, ends and batch, what it was fed, and its embeddings [I,D]."""

    source: Source
    entry: onnx.ValueInfoProto
    output: str
    settled: batching.SettledBatch
    fed: Float32
    embeddings: Float32


def _run_bare(given: SimilarityGraph, size: tuple[int, int], folder: Path) -> _BareNetwork:
    """Runs the network as it is on random images; BundleError where what it gives is no embedding."""
    source = load_into(given.network, folder, "similarity")
    entry = image_entry(source.model, given.input, given.preprocessing, size)
    output = pick_output(source.model, given.output).name
    fed = given.preprocessing.apply(random_images(size))
    settled = batching.settle_batch(source.model, fed, input=entry.name, outputs=[output], open_session=Opener(folder))
    embeddings = _embeddings(settled.outputs[0], output, source.model)
    if (largest := float(np.abs(embeddings).max())) < _SMALLEST[precision(entry)]:
        raise BundleError(
            f"output {output!r} is at most {largest:.2g} for random images, which {precision(entry)} cannot tell from "
            "zero: is the network trained, and are --scale, --mean and --std right? Half precision may be too little."
        )
    return _BareNetwork(source, entry, output, settled, fed, embeddings)


def _embeddings(rows: Float32, name: str, model: onnx.ModelProto) -> Float32:
    """The rows [PROBES,D] of an output [PROBES,D], [PROBES,D,1,1] or the like; BundleError for a feature map."""
    if sum(side > 1 for side in rows.shape[1:]) != 1:
        raise BundleError(
            f"output {name!r} has shape {shape_text((None, *rows.shape[1:]))}, expected an embedding [B,D] with D of "
            f"2 or more; the network's outputs are {outputs_text(model)}. Name the pooled one with --output."
        )
    return rows.reshape(len(rows), -1)


def _normalised(embeddings: Float32) -> Float32:
    rows: Float32 = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), _TINY)
    return rows


def _find_projection(bare: _BareNetwork, folder: Path, *, normalise: bool) -> Projection | str:
    """The projection of the network (``export.graphs.linear_head``), or why there is none."""
    try:
        return project(
            bare.settled.network,
            bare.fed.astype(precision(bare.entry)),
            input=bare.entry.name,
            output=bare.output,
            batch=bare.settled.batch,
            normalise=normalise,
            open_session=Opener(folder),
        )
    except NoProjection as reason:
        return str(reason)


def _write_projection(
    projection: Projection, features: Float32, expected: Float32, folder: Path, *, normalise: bool
) -> bundle.Network | str:
    """Writes projection.onnx; returns its record, or why it does not make ``expected`` [I,D] of ``features``."""
    graph = projection_graph(projection)
    written = write_graph(graph, Source(graph), folder, "projection", batch=None, kind="float32", record={})
    local, bias = runtime.session(folder / written.file).run(["local", "bias"], {"features": features})
    found = local.sum(axis=(2, 3)) + bias
    try:
        compare(
            "projection",
            _normalised(found) if normalise else found,
            expected,
            "float32" if features.dtype == np.float32 else "float16",
        )
    except BundleError as error:  # the bundle serves all the same
        (folder / written.file).unlink()
        return str(error)
    return written
