"""An attribute network made ready to serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from export.bundling.bundle_spec import AttributeGraph
from export.bundling.prefix import wrap_attributes
from export.bundling.preprocessing import Preprocessing
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
from export.graphs.network_file import Layout, pick_output, precision, shape
from transforms.core.errors import BundleError
from transforms.core.records import Float32
from transforms.serving import bundle, runtime


def serve_attributes(
    given: AttributeGraph, default: Preprocessing, size: tuple[int, int], folder: Path
) -> bundle.Network:
    """Writes attributes.onnx for the input ``size`` into ``folder`` and returns its record.

    ``default`` is the preprocessing of a network that has none of its own. BundleError where it cannot serve.
    """
    preprocessing = given.preprocessing or default
    source = load_into(given.network, folder, "attributes")
    entry = image_entry(source.model, given.input, preprocessing, size)
    scores_name, maps_name = attribute_outputs(source.model, given.scores, given.maps)
    images = random_images(size)
    settled = batching.settle_batch(
        source.model,
        preprocessing.apply(images),
        input=entry.name,
        outputs=[scores_name, maps_name],
        open_session=Opener(folder),
    )
    scores, maps = settled.outputs
    layout = _maps_layout(scores, maps, len(given.vocabulary), preprocessing.layout)
    wrapped = wrap_attributes(
        settled.network,
        preprocessing=preprocessing,
        size=size,
        input=entry.name,
        scores_output=scores_name,
        maps_output=maps_name,
        activation=given.activation,
        maps_layout=layout,
    )
    ends = {"input": entry.name, "scores": scores_name, "maps": maps_name, "activation": given.activation}
    served = write_graph(
        wrapped,
        source,
        folder,
        "attributes",
        batch=settled.batch,
        kind=precision(entry),
        record=record_preprocessing(preprocessing, **ends),
        parity=given.parity,
    )
    graph = ServedGraph(runtime.session(folder / served.file), settled.batch, ("scores", "maps"), {})
    found_scores, found_maps = graph.run(images)
    compare("maps", found_maps, maps if layout == "nchw" else maps.transpose(0, 3, 1, 2), served.precision)
    _check_confidences(found_scores)
    return replace(served, batch_invariant=graph.batch_invariant(images))


def attribute_outputs(model: onnx.ModelProto, scores: str | None, maps: str | None) -> tuple[str, str]:
    """The names of the outputs for scores and maps; where none is given, the only ones of rank 2 and of rank 4."""
    ranks = {value.name: len(shape(value)) for value in model.graph.output}
    if maps is None:
        found = [name for name, rank in ranks.items() if rank == 4 and name != scores]
        if len(found) != 1:
            many = "none" if not found else "more than one"
            raise BundleError(
                f"the attribute network's outputs are {outputs_text(model)}; {many} "
                "is plainly the activation maps [B,A,h,w]. whymatch needs scores [B,A] and the maps that they are "
                "averaged from: make the last convolution's result an output of the network and export it again"
                + (", or name it with --maps-output" if ranks else "")
            )
        maps = found[0]
    if scores is None:
        found = [name for name in ranks if name != maps]
        if len(found) != 1:
            raise BundleError(
                f"the attribute network's outputs are {outputs_text(model)}: name the scores [B,A] with --scores-output"
            )
        scores = found[0]
    return pick_output(model, scores, "--scores-output").name, pick_output(model, maps, "--maps-output").name


def _maps_layout(scores: Float32, maps: Float32, names: int, layout: Layout) -> Layout:
    """Where the attributes stand in the maps: "nchw" or "nhwc"; BundleError for other shapes."""
    if scores[0].size != names:
        raise BundleError(f"the attribute network gives {scores[0].size} scores for {names} names in the vocabulary")
    axes: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
    found = [order for order, axis in axes.items() if maps.ndim == 4 and maps.shape[axis] == names]
    if not found:
        raise BundleError(
            f"the activation maps have shape {shape_text((None, *maps.shape[1:]))}, expected [B,A,h,w] or [B,h,w,A] "
            f"with A = {names}"
        )
    return layout if layout in found else found[0]


def _check_confidences(scores: Float32) -> None:
    """BundleError where served ``scores`` [I,A] lie outside of 0 to 1."""
    if scores.min() < 0 or scores.max() > 1 + 1e-6:
        raise BundleError(
            f"the attribute scores lie between {scores.min():.3g} and {scores.max():.3g}, expected 0 to 1: "
            "state what turns them into confidences, --activation sigmoid (or softmax)"
        )
