"""The blocks of a similarity network, from the embedding down to the image. onnx and numpy only, no torch.

A block is what stands between two neighbouring values that every path from the image to the embedding passes
(``export.graphs.cut``), with at least one weight in it: a layer, or all layers within a residual connection. What
stands in front of the first layer is preprocessing and belongs to none.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from export.graphs import cut, linear_head
from export.graphs.compose import NAMESPACE
from export.graphs.parameters import Parameters, Use, plain
from transforms.core.errors import BundleError


@dataclass(frozen=True)
class Block:
    """A part of a network between two neighbouring values that every path from the image to the embedding passes.

    ``name`` is the scope of its last weight, or the name of that weight's node; no two blocks of a network share one.
    ``weights`` are the names of the tensors that are drawn anew, and ``deviations`` the standard deviations they are
    drawn with. ``resets`` are names of biases and normalisations' parameters, and the value that each is filled with. A
    tensor that several blocks use belongs to the topmost of them. ``parameters`` counts the numbers in all of these.
    """

    name: str
    weights: tuple[str, ...]
    deviations: tuple[float, ...]
    resets: tuple[tuple[str, float], ...]
    parameters: int


@dataclass(frozen=True)
class _Group:
    """What becomes a block: its weights' uses, those of its other parameters, and the last layer's node.

    ``segment`` counts the values from the image on that every path passes, up to the lower end of the block.
    """

    segment: int
    weights: tuple[Use, ...]
    others: tuple[Use, ...]
    last: onnx.NodeProto


_Segments = Mapping[int, list[tuple[onnx.NodeProto, Use]]]


def blocks(model: onnx.ModelProto) -> tuple[Block, ...]:
    """The blocks of a bundle's similarity graph, all of its data in it; the one next to the embedding is the first.

    Raises:
      BundleError: the graph has no output "embedding", no weights, or weights of a kind that whymatch does not know.
    """
    parameters = _read(model)
    segments = _segments(parameters)
    values = _reset_values(segments)
    made, taken, names = list[Block](), set[str](), dict[str, int]()
    for group in _groups(segments):
        resets = [use.tensor for use in group.others if use.tensor in values and use.tensor not in taken]
        resets = list(dict.fromkeys(resets))
        taken.update(resets)
        weights = tuple(use.tensor for use in group.weights)
        name = _scope(group, resets)
        names[name] = names.get(name, 0) + 1
        made.append(
            Block(
                name if names[name] == 1 else f"{name}#{names[name]}",
                weights,
                tuple(use.deviation for use in group.weights),
                tuple((one, values[one]) for one in resets),
                sum(math.prod(parameters.stored[one].dims) for one in (*weights, *resets)),
            )
        )
    return tuple(made)


def linear_blocks(model: onnx.ModelProto) -> int:
    """How many blocks from the top have nothing in them or behind them that is not linear, but for an L2 norm.

    Averages over positions count as linear.
    """
    parameters = _read(model)
    linear = _linear(parameters)
    ends = _ends(parameters.graph)
    last = max((index for index in _path(parameters.graph) if index not in linear), default=-1)
    groups = _groups(_segments(parameters))
    return sum(group.segment > 0 and ends[group.segment - 1] >= last for group in groups)


def _read(model: onnx.ModelProto) -> Parameters:
    if all(value.name != "embedding" for value in model.graph.output):
        raise BundleError("the graph has no output 'embedding': whymatch randomises the similarity graph of a bundle")
    return Parameters(plain(model))


def _path(graph: cut.CutGraph) -> list[int]:
    """The network's own nodes on paths from the image to the embedding, in the graph's order."""
    wanted, path = {"embedding"}, list[int]()
    for index in range(len(graph.nodes) - 1, -1, -1):
        if not wanted.isdisjoint(graph.nodes[index].output):
            path.append(index)
            wanted |= graph.taken[index] & graph.moving
    return [index for index in reversed(path) if not graph.nodes[index].name.startswith(NAMESPACE)]


def _ends(graph: cut.CutGraph) -> list[int]:
    """The nodes that make the values which every path passes; segment s ends in the s-th of them."""
    makers = {name: index for index, node in enumerate(graph.nodes) for name in node.output}
    return [makers[name] for name in graph.cuts()]


def _segments(parameters: Parameters) -> _Segments:
    """The nodes that take trained tensors, and what they take, by segment; from the first layer on."""
    graph, ends = parameters.graph, _ends(parameters.graph)
    path = _path(graph)
    first = next((index for index in path if parameters.is_layer(graph.nodes[index])), None)
    if first is None:
        raise BundleError(
            "no weights were found between the image and the embedding: no Conv, Gemm, MatMul or other layer has "
            "a constant operand of floats. Is this the network's final export?"
        )
    found: dict[int, list[tuple[onnx.NodeProto, Use]]] = {}
    for index in path:
        uses = list(parameters.uses(graph.nodes[index])) if index >= first else []
        if uses:
            found.setdefault(bisect_left(ends, index), []).extend((graph.nodes[index], use) for use in uses)
    return found


def _groups(segments: _Segments) -> list[_Group]:
    """The blocks' parts from the top: a segment without weights of its own is part of the next one below."""
    groups, taken, waiting = list[_Group](), set[str](), list[Use]()
    for segment in sorted(segments, reverse=True):
        own = dict[str, tuple[onnx.NodeProto, Use]]()
        for node, use in segments[segment]:
            if use.reset is None and use.tensor not in taken:
                own.setdefault(use.tensor, (node, use))
        taken.update(own)
        waiting = [*(use for _, use in segments[segment] if use.reset is not None), *waiting]
        if own:
            weights = tuple(use for _, use in own.values())
            groups.append(_Group(segment, weights, tuple(waiting), list(own.values())[-1][0]))
            waiting = []
    lowest = groups.pop()
    return [*groups, _Group(lowest.segment, lowest.weights, (*waiting, *lowest.others), lowest.last)]


def _reset_values(segments: _Segments) -> dict[str, float]:
    """What each tensor that is no weight is filled with."""
    uses = [use for found in segments.values() for _, use in found]
    weights = {use.tensor for use in uses if use.reset is None}
    values: dict[str, float] = {}
    for use in uses:
        if use.reset is None or use.tensor in weights:
            continue
        if values.setdefault(use.tensor, use.reset) != use.reset:
            raise BundleError(
                f"tensor {use.tensor!r} is both a shift and a scale of the network, so it has no fresh value: "
                "export the network with a tensor for each"
            )
    return values


def _scope(group: _Group, resets: Iterable[str]) -> str:
    """The scope that the exporter kept of the last weight, or of what is added behind it; else its node's name."""
    weight = group.weights[-1].tensor
    scopes = (name.rpartition(".")[0] for name in (weight, *reversed(list(resets))) if "." in name)
    return next(scopes, group.last.name.strip("/") or weight)


def _linear(parameters: Parameters) -> set[int]:
    """The nodes on the path that are linear up to a constant, averages too, and those of the L2 norm."""
    graph = linear_head.HeadGraph(parameters.model, "image")
    target, norm = graph.without_norm("embedding")
    while norm is not None:  # the network's own stands in front of the bundle's
        target, norm = graph.without_norm(target)
    nodes = parameters.graph.nodes
    last = next((index for index, node in enumerate(nodes) if target in node.output), -1)
    return {
        index for index in _path(parameters.graph) if index > last or _is_linear(graph, parameters.graph.nodes[index])
    }


def _is_linear(graph: linear_head.HeadGraph, node: onnx.NodeProto) -> bool:
    if node.op_type in linear_head.AVERAGES and graph.layout(node) is not None:
        return True
    try:
        graph.check_linear(node)
    except linear_head.NoProjection:
        return False
    return True
