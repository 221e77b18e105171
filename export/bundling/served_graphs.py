"""One network made ready to serve: run bare, wrapped, run as it will be served, compared, and written with its data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from export.bundling.gradient_prefix import wrap_gradient
from export.bundling.prefix import Activation, wrap_attributes, wrap_similarity
from export.bundling.preprocessing import Preprocessing
from export.graphs import batching
from export.graphs.linear_head import NoProjection, Projection, project, projection_graph
from export.graphs.network_file import Layout, Source, image_input, load, pick_output, precision, shape, tensors
from transforms.core.errors import BundleError
from transforms.core.records import Float32, Image
from transforms.serving import bundle, runtime

_TOLERANCE = {"float32": 1e-4, "float16": 1e-2}  # of the served graph against the bare network, of the largest value
_SMALLEST = {"float32": 1e-12, "float16": 6.1e-5}  # below lie numbers with fewer digits, or none
_GRADIENT_BATCH = 8  # of a gradient whose rows depend on the batch they are in, so that it is always the same
_TINY = 1e-12  # the smallest length that an embedding is divided by, as in the graph


@dataclass(frozen=True)
class SimilarityNetwork:
    """An embedding network as its owner has it: an ONNX file (or model), and what stands in front of it.

    ``input`` and ``output`` are names, None where there is only one. The output is [B,D] or [B,D,1,1].
    """

    network: str | Path | onnx.ModelProto
    preprocessing: Preprocessing
    input: str | None = None
    output: str | None = None
    parity: float | None = None


@dataclass(frozen=True)
class AttributeNetwork:
    """An attribute network as its owner has it: scores [B,A] and activation maps [B,A,h,w] or [B,h,w,A].

    ``scores`` and ``maps`` are names, None where the number of dimensions tells the outputs apart. ``activation`` is
    what turns the scores into 0 to 1, "none" where they are already.
    """

    network: str | Path | onnx.ModelProto
    preprocessing: Preprocessing
    vocabulary: tuple[str, ...]
    input: str | None = None
    scores: str | None = None
    maps: str | None = None
    activation: Activation = "none"
    parity: float | None = None


def serve_similarity(
    given: SimilarityNetwork, size: tuple[int, int], folder: Path, *, normalise: bool
) -> tuple[bundle.Network, int, bundle.Network | str]:
    """Writes similarity.onnx for the input ``size`` into ``folder``, and projection.onnx where there is a projection.

    Returns the record of the first, the embedding's size D, and the record of the second or why there is none.
    """
    source = _placed(load(given.network), folder, "similarity")
    entry = _entry(source.model, given.input, given.preprocessing, size)
    name = pick_output(source.model, given.output).name
    images = _probes(size)
    settled = batching.settle_batch(
        source.model, given.preprocessing.apply(images), input=entry.name, outputs=[name], open_session=_Opener(folder)
    )
    expected = _embeddings(settled.outputs[0], name, source.model)
    if (largest := float(np.abs(expected).max())) < _SMALLEST[precision(entry)]:
        raise BundleError(
            f"output {name!r} is at most {largest:.2g} for random images, which {precision(entry)} cannot tell from "
            "zero: is the network trained, and are --scale, --mean and --std right? Half precision may be too little."
        )
    if normalise:
        expected = expected / np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), _TINY)
    projection: Projection | str
    try:
        fed = given.preprocessing.apply(images).astype(precision(entry))
        projection = project(
            settled.network,
            fed,
            input=entry.name,
            output=name,
            batch=settled.batch,
            normalise=normalise,
            open_session=_Opener(folder),
        )
    except NoProjection as reason:
        projection = str(reason)
    wrapped = wrap_similarity(
        settled.network,
        preprocessing=given.preprocessing,
        size=size,
        input=entry.name,
        output=name,
        normalise=normalise,
        features=None if isinstance(projection, str) else projection.features,
    )
    wrapped.graph.output[0].type.tensor_type.shape.dim[1].dim_value = expected.shape[1]
    record = _record(given.preprocessing, input=entry.name, output=name)
    served = _written(wrapped, source, folder, "similarity", settled.batch, precision(entry), record, given.parity)
    session = runtime.session(folder / served.file)
    keep, no_fill = np.ones((1, *size, 1), np.float32), np.zeros((1, 1, 1, 3), np.float32)
    fixed = {"mask": keep, "fill": no_fill}
    found = _in_batches(session, images, settled.batch, ["embedding"], fixed)
    _compare("embedding", found[0], expected, served.precision)
    served = replace(served, batch_invariant=_batch_invariant(session, images, settled.batch, ["embedding"], fixed))
    if isinstance(projection, str):
        return served, expected.shape[1], projection
    features = _in_batches(session, images, settled.batch, ["features"], fixed)[0]
    written = _write_projection(projection, features, expected, folder, normalise=normalise)
    return served, expected.shape[1], written


def _write_projection(
    projection: Projection, features: Float32, expected: Float32, folder: Path, *, normalise: bool
) -> bundle.Network | str:
    """Writes projection.onnx; returns its record, or why it does not make ``expected`` [I,D] of ``features``."""
    graph = projection_graph(projection)
    written = _written(graph, Source(graph), folder, "projection", None, "float32", {}, None)
    local, bias = runtime.session(folder / written.file).run(["local", "bias"], {"features": features})
    found = local.sum(axis=(2, 3)) + bias
    if normalise:
        found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _TINY)
    try:
        _compare("projection", found, expected, "float32" if features.dtype == np.float32 else "float16")
    except BundleError as error:  # the bundle serves all the same
        (folder / written.file).unlink()
        return str(error)
    return written


def serve_attributes(given: AttributeNetwork, size: tuple[int, int], folder: Path) -> bundle.Network:
    """Writes attributes.onnx for the input ``size`` into ``folder`` and returns its record."""
    source = _placed(load(given.network), folder, "attributes")
    entry = _entry(source.model, given.input, given.preprocessing, size)
    scores_name, maps_name = attribute_outputs(source.model, given.scores, given.maps)
    images = _probes(size)
    settled = batching.settle_batch(
        source.model,
        given.preprocessing.apply(images),
        input=entry.name,
        outputs=[scores_name, maps_name],
        open_session=_Opener(folder),
    )
    scores, maps = settled.outputs
    layout = _check_attribute_outputs(scores, maps, len(given.vocabulary), given.preprocessing.layout)
    wrapped = wrap_attributes(
        settled.network,
        preprocessing=given.preprocessing,
        size=size,
        input=entry.name,
        scores_output=scores_name,
        maps_output=maps_name,
        activation=given.activation,
        maps_layout=layout,
    )
    record = _record(
        given.preprocessing, input=entry.name, scores=scores_name, maps=maps_name, activation=given.activation
    )
    served = _written(wrapped, source, folder, "attributes", settled.batch, precision(entry), record, given.parity)
    session = runtime.session(folder / served.file)
    found_scores, found_maps = _in_batches(session, images, settled.batch, ["scores", "maps"], {})
    _compare("maps", found_maps, maps if layout == "nchw" else maps.transpose(0, 3, 1, 2), served.precision)
    served = replace(served, batch_invariant=_batch_invariant(session, images, settled.batch, ["scores", "maps"], {}))
    if found_scores.min() < 0 or found_scores.max() > 1 + 1e-6:
        raise BundleError(
            f"the attribute scores lie between {found_scores.min():.3g} and {found_scores.max():.3g}, expected 0 to 1: "
            "state what turns them into confidences, --activation sigmoid (or softmax)"
        )
    return served


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
    record = _record(preprocessing)
    written = _written(wrapped, Source(wrapped), folder, "gradient", fixed, "float32", record, None)
    session = runtime.session(folder / written.file)
    rows = fixed or _GRADIENT_BATCH
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
        return replace(written, batch=_GRADIENT_BATCH)
    return written


def _gradients(session: Any, feeds: Mapping[str, Any], part: slice) -> list[Float32]:
    rows = {name: values[part] if len(values) > 1 else values for name, values in feeds.items()}
    try:
        results: list[Float32] = session.run(["similarity", "gradient", "embedding"], rows)
    except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
        raise BundleError(f"ONNX Runtime cannot run the gradient: {str(error).strip().splitlines()[0]}") from None
    return results


def attribute_outputs(model: onnx.ModelProto, scores: str | None, maps: str | None) -> tuple[str, str]:
    """The names of the outputs for scores and maps; where none is given, the only ones of rank 2 and of rank 4."""
    ranks = {value.name: len(shape(value)) for value in model.graph.output}
    if maps is None:
        found = [name for name, rank in ranks.items() if rank == 4 and name != scores]
        if len(found) != 1:
            raise BundleError(
                f"the attribute network's outputs are {_listed(model)}; {'none' if not found else 'more than one'} is "
                "plainly the activation maps [B,A,h,w]. whymatch needs scores [B,A] and the maps that they are "
                "averaged from: make the last convolution's result an output of the network and export it again"
                + (", or name it with --maps-output" if ranks else "")
            )
        maps = found[0]
    if scores is None:
        found = [name for name in ranks if name != maps]
        if len(found) != 1:
            raise BundleError(
                f"the attribute network's outputs are {_listed(model)}: name the scores [B,A] with --scores-output"
            )
        scores = found[0]
    return pick_output(model, scores, "--scores-output").name, pick_output(model, maps, "--maps-output").name


@dataclass(frozen=True)
class _Opener:
    """Opens sessions of models whose external data lies in ``folder``."""

    folder: Path

    def __call__(self, model: onnx.ModelProto) -> Any:
        path = self.folder / "probe.onnx"
        try:
            path.write_bytes(model.SerializeToString())
            return runtime.session(path)
        finally:
            path.unlink(missing_ok=True)


def _probes(size: tuple[int, int]) -> Image:
    return np.random.default_rng(0).integers(0, 256, (batching.PROBES, *size, 3), dtype=np.uint8)


def _placed(source: Source, folder: Path, stem: str) -> Source:
    """``source`` with copies in ``folder`` of what data it keeps outside of its file."""
    renamed = {name: f"{stem}-{index}.data" for index, name in enumerate(source.external)}
    for name, file in source.external.items():
        shutil.copyfile(file, folder / renamed[name])
    for tensor in tensors(source.model) if renamed else ():
        for entry in tensor.external_data if uses_external_data(tensor) else ():
            if entry.key == "location":
                entry.value = renamed[entry.value]
    return Source(source.model, {name: folder / name for name in renamed.values()})


def _entry(
    model: onnx.ModelProto, name: str | None, preprocessing: Preprocessing, size: tuple[int, int]
) -> onnx.ValueInfoProto:
    """The image input, whose declared shape must not contradict layout and size."""
    entry = image_input(model, name)
    height, width = size
    wanted = (None, 3, height, width) if preprocessing.layout == "nchw" else (None, height, width, 3)
    for declared, expected in zip(shape(entry), wanted, strict=False):
        if None not in (declared, expected) and declared != expected:
            raise BundleError(
                f"input {entry.name!r} takes {_shape_text(shape(entry))}, but layout {preprocessing.layout} and size "
                f"{height}x{width} give {_shape_text(wanted)}: correct --layout or --size"
            )
    return entry


def _embeddings(rows: Float32, name: str, model: onnx.ModelProto) -> Float32:
    """The rows [PROBES,D] of an output [PROBES,D], [PROBES,D,1,1] or the like; BundleError for a feature map."""
    if sum(side > 1 for side in rows.shape[1:]) != 1:
        raise BundleError(
            f"output {name!r} has shape {_shape_text((None, *rows.shape[1:]))}, expected an embedding [B,D] with D of "
            f"2 or more; the network's outputs are {_listed(model)}. Name the pooled one with --output."
        )
    return rows.reshape(len(rows), -1)


def _check_attribute_outputs(scores: Float32, maps: Float32, names: int, layout: Layout) -> Layout:
    """Where the attributes stand in the maps: "nchw" or "nhwc"; BundleError for other shapes."""
    if scores[0].size != names:
        raise BundleError(f"the attribute network gives {scores[0].size} scores for {names} names in the vocabulary")
    axes: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
    found = [order for order, axis in axes.items() if maps.ndim == 4 and maps.shape[axis] == names]
    if not found:
        raise BundleError(
            f"the activation maps have shape {_shape_text((None, *maps.shape[1:]))}, expected [B,A,h,w] or [B,h,w,A] "
            f"with A = {names}"
        )
    return layout if layout in found else found[0]


def _written(
    wrapped: onnx.ModelProto,
    source: Source,
    folder: Path,
    stem: str,
    batch_size: int | None,
    kind: str,
    record: Mapping[str, Any],
    parity: float | None,
) -> bundle.Network:
    file = folder / f"{stem}.onnx"
    file.write_bytes(wrapped.SerializeToString(deterministic=True))
    return bundle.Network(
        files={name: bundle.file_sha256(folder / name) for name in (file.name, *source.external)},
        batch=batch_size,
        precision="float16" if kind == "float16" else "float32",
        preprocessing=record,
        parity=parity,
    )


def _record(preprocessing: Preprocessing, **names: str) -> dict[str, Any]:
    return {
        "layout": preprocessing.layout,
        "channels": preprocessing.channels,
        "scale": preprocessing.scale,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        **names,
    }


def _in_batches(
    session: Any, images: Image, batch_size: int | None, outputs: Sequence[str], others: Mapping[str, Float32]
) -> list[Float32]:
    """The outputs for ``images``, from the session of a wrapped network."""
    step = batch_size or len(images)
    rows = []
    for start in range(0, len(images), step):
        block = images[start : start + step]
        padded = np.concatenate([block, np.repeat(block[-1:], step - len(block), axis=0)])
        rows.append([result[: len(block)] for result in session.run(list(outputs), {"image": padded, **others})])
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def _batch_invariant(
    session: Any, images: Image, batch_size: int | None, outputs: Sequence[str], others: Mapping[str, Float32]
) -> bool:
    """Whether a row has the same bits in whatever batch; a network of one fixed batch never meets another."""
    if batch_size is not None:
        return True
    whole = _in_batches(session, images, None, outputs, others)
    return all(
        np.array_equal(some, all_of_them)
        for step in (1, 2)
        for some, all_of_them in zip(_in_batches(session, images, step, outputs, others), whole, strict=True)
    )


def _compare(what: str, found: Float32, expected: Float32, kind: str) -> None:
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not worst <= _TOLERANCE[kind] * max(float(np.abs(expected).max()), 1e-6):
        raise BundleError(
            f"the bundle's {what} {found.shape} differs from the network's own {expected.shape} by {worst:.3g}: "
            "please report this network, whymatch cannot serve it"
        )


def _listed(model: onnx.ModelProto) -> str:
    return ", ".join(f"{value.name} {_shape_text(shape(value))}" for value in model.graph.output)


def _shape_text(dims: tuple[int | None, ...]) -> str:
    return "[" + ",".join("?" if dim is None else str(dim) for dim in dims) + "]"
