"""Copies of a bundle whose similarity network has random weights, from the embedding down: what the model randomisation
test of Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018, arXiv 1810.03292, section 3.1) compares with.

A map that explains a network has to change when the network's weights do. Randomisation cascades: the top block alone,
the two top blocks, and so on down to the image, where nothing of the trained network is left. Works on any bundle's
graph; onnx and numpy only, no torch.

A block is what stands between two neighbouring values that every path from the image to the embedding passes
(``export.tail``), with at least one weight in it: a layer, or all layers within a residual connection.

What is drawn. Weights of layers are N(0, 2 / fan_in) (He et al. 2015, arXiv 1502.01852, eq. 10); biases become 0;
normalisations get scale 1, shift 0, mean 0 and variance 1; vectors that are multiplied by (LayerScale) become 1, those
that are added 0; slopes of PReLU 0.25 (section 2.1 there). Exporters fold a batch normalisation into the convolution in
front of it, its scale into the weights and its shift into the bias; such a convolution with He's weights and no bias is
a fresh one with an identity behind it. Tables that are added, joined or looked up (positions, class tokens) have no
fan-in; they keep their own standard deviation. What stands in front of the first layer is preprocessing and stays.

Why He's deviation and not each tensor's own. Without biases a network of ReLUs is positively homogeneous: the scale of
its weights does not change the direction of its embeddings (equal to 6 digits on the demo's network). All 32 blocks of
EfficientNet-Lite0 random, five photographs had cosines of 0.977 to 0.988 with each other in three draws (trained: -0.27
to 0.19), no value between blocks was above 37, and at most 20 % of the activations stood at the 6 of a ReLU6; with each
tensor's own deviation the cosines were the same, and 29 % stood there. ResNet-18 gave 0.992 to 0.998 and values up to
189, a transformer of four layers 0.886 to 0.991 and 25. Cosines near 1 are what random networks without biases give:
their activations share a positive mean. Each residual connection that has lost its normalisation doubles the variance,
which leaves half precision after some 25 of them: :func:`cascade` runs every copy, and refuses what is not finite, or
the same for all images.

What becomes of the other graphs. The gradient graph holds the same weights, turned, mirrored, and with the batch
normalisations still apart: each of its tensors is traced to those of the similarity graph, and the result is run
against it; where a tensor cannot be traced there is no gradient graph. The projection is measured anew. The attribute
network explains nothing of a random embedding and is left out.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from export import batch as batches
from export import decomposition, tail
from export.merge import NAMESPACE
from export.network import all_nodes, load
from transforms import bundle, runtime
from transforms.bundle import Bundle, Network
from transforms.core.errors import BundleError, UsageError
from transforms.core.types import Float32, Image

Array = NDArray[Any]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_CONVOLUTIONS = ("Conv", "FusedConv")
_PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_RECURRENT = ("RNN", "GRU", "LSTM")
_WEIGHTS: Mapping[str, frozenset[int]] = {
    **dict.fromkeys((*_CONVOLUTIONS, "ConvTranspose", "Attention"), frozenset((1,))),
    **dict.fromkeys(_PRODUCTS, frozenset((0, 1))),
    **dict.fromkeys(_RECURRENT, frozenset((1, 2))),
    "Einsum": frozenset(range(8)),
}
"""The inputs of layers that are weights where they are constant."""
_RESETS: Mapping[str, Mapping[int, float]] = {
    **{kind: {2: 0.0} for kind in (*_CONVOLUTIONS, "ConvTranspose", "Gemm", "FusedGemm", "Attention")},
    **{kind: {3: 0.0, 5: 0.0} for kind in ("RNN", "GRU")},
    "LSTM": {3: 0.0, 5: 0.0, 6: 0.0, 7: 0.0},
    "BatchNormalization": {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0},
    **{f"{kind}Normalization": {1: 1.0, 2: 0.0} for kind in ("Layer", "Group", "Instance")},
    "GroupNorm": {1: 1.0, 2: 0.0},
    **{kind: {1: 1.0} for kind in ("RMSNormalization", "SimplifiedLayerNormalization")},
    "SkipLayerNormalization": {2: 1.0, 3: 0.0, 4: 0.0},
    "SkipSimplifiedLayerNormalization": {2: 1.0, 3: 0.0},
    **{kind: {1: 0.0} for kind in ("BiasGelu", "FastGelu")},
    "PRelu": {1: 0.25},
}
"""What biases, normalisations' parameters and statistics of a fresh layer are, by the input that takes them."""
_VECTORS: Mapping[str, float] = {**dict.fromkeys(("Add", "Sub", "Sum"), 0.0), **dict.fromkeys(("Mul", "Div"), 1.0)}
_TABLES = frozenset(("Add", "Sub", "Sum", "Concat", "Gather"))
_QUANTISED = frozenset((
    *("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4", "QGemm", "QAttention"),
    *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "GatherBlockQuantized"),
))  # fmt: skip

_NAME = "similarity.onnx"
_SAME = 1e-5  # of the largest value: what folding a normalisation in single precision costs
_EMBEDDINGS_AGREE = 1e-3  # of the gradient graph with the similarity graph
_SLOPES_AGREE = 0.05  # of the gradient with difference quotients: there are kinks between their ends
_STEPS = (1e-2, 1e-3, 1e-4)  # of those quotients: the change of the similarity, of its size


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
class Stage:
    """A bundle in ``folder`` whose blocks from the top down to ``block`` are random, ``depth`` of all (0 < depth <= 1).

    ``head_only``: what is random, and all behind it but the L2 norm, is a linear map from the network's last features
    to the embedding. Averages over positions count as linear, since a dense layer behind one could as well stand in
    front of it. A random projection preserves cosines (Johnson & Lindenstrauss 1984), so maps of such a network need
    not change: it is reported, not judged.
    """

    folder: Path
    block: str
    depth: float
    head_only: bool


def blocks(model: onnx.ModelProto) -> tuple[Block, ...]:
    """The blocks of a bundle's similarity graph, all of its data in it; the one next to the embedding is the first.

    Raises:
      BundleError: the graph has no output "embedding", no weights, or weights that are not floats.
    """
    return tuple(block for block, _ in _Network(_plain(model)).blocks)


def randomised(model: onnx.ModelProto, some: Collection[Block], seed: int) -> onnx.ModelProto:
    """A copy of ``model`` in which the blocks ``some`` of it (:func:`blocks`) are random; local functions are inlined.

    A tensor's values depend on the seed, its name and its shape alone, not on what else is random. BundleError where
    ``some`` are blocks of another network.
    """
    made = _plain(model)
    stored = _stored(made)
    for block in some:
        for name in (*block.weights, *(name for name, _ in block.resets)):
            if name not in stored:
                raise BundleError(f"block {block.name!r} is of another network: this one stores no tensor {name!r}")
        for name, deviation in zip(block.weights, block.deviations, strict=True):
            _put(stored[name], _draw(name, tuple(stored[name].dims), deviation, seed))
        for name, value in block.resets:
            _put(stored[name], np.full(tuple(stored[name].dims), value))
    return made


def cascade(bundle_folder: Path, out: Path, *, stages: int | None, seed: int) -> tuple[Stage, ...]:
    """Writes a bundle for every stage of the cascade into a folder of its own in ``out``, the top block's first.

    A stage's bundle is complete: similarity.onnx in one file, the projection, the gradient where it can be had
    (``missing`` says why not), resize, similarity function and conditions as they were; no attribute network.
    ``training`` says of which model it is a copy. The random weights of a stage are those of the stages before it.

    Args:
      bundle_folder: a local bundle folder; it is only read.
      out: is made, or empty.
      stages: how many, 3 or more, evenly over the depth; among them are the top block alone, all blocks, and the
        fewest blocks that are half of the network or more. None for a stage per block.
      seed: of the weights.

    Raises:
      UsageError: fewer than 3 stages are asked for, or ``out`` holds something.
      BundleError: the network is quantised, has no weights or only one block, or a copy of it does not run, gives
        values that are not finite, or the same embedding for all images.
    """
    if stages is not None and stages < 3:
        raise UsageError(f"{stages} stages are too few: the top block, half of the network and all of it make 3")
    _make_empty(out)
    with tempfile.TemporaryDirectory(prefix="whymatch-randomise-") as temporary:
        source = Path(temporary)
        described = bundle.fetch(str(bundle_folder), source)
        where = f"{bundle_folder / described.similarity.file}"
        network = _whole(source / described.similarity.file, where)
        gradient = None if described.gradient is None else _whole(source / described.gradient.file, where)
        try:
            return tuple(_cascade(described, network, gradient, out, stages, seed))
        except BaseException as error:
            for made in out.iterdir():  # all or nothing: a part would look like a cascade of fewer stages
                shutil.rmtree(made)
            if isinstance(error, BundleError):
                raise BundleError(f"{where}: {error}") from None
            raise


def _cascade(
    described: Bundle,
    network: onnx.ModelProto,
    gradient: onnx.ModelProto | None,
    out: Path,
    stages: int | None,
    seed: int,
) -> Iterator[Stage]:
    reader = _Network(_plain(network))
    every = [block for block, _ in reader.blocks]
    if len(every) < 2:
        raise BundleError(
            f"the network has one block, {every[0].name!r}: between image and embedding is no value that all paths "
            "pass, so there is nothing to cascade over. Use randomised() for the whole of it"
        )
    for count in _depths(len(every), stages):
        top = every[:count]
        folder = out / f"top-{count:0{len(str(len(every)))}d}"
        folder.mkdir()
        record = {
            "of": described.model_id,
            "blocks": [block.name for block in top],
            "all_blocks": len(every),
            "seed": seed,
        }
        _write(_Copy(described, network, randomised(network, top, seed), gradient), folder, record)
        yield Stage(folder, top[-1].name, count / len(every), count <= reader.head)


def _depths(count: int, stages: int | None) -> list[int]:
    """How many of ``count`` blocks are random in each of at most ``stages`` stages, ascending."""
    if stages is None or stages >= count:
        return list(range(1, count + 1))
    found = [math.floor(1 + (count - 1) * index / (stages - 1) + 0.5) for index in range(stages)]
    half = -(-count // 2)
    nearest = min(range(1, stages - 1), key=lambda index: abs(found[index] - half))
    found[nearest] = half
    return sorted(set(found))


def _make_empty(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        taken = any(out.iterdir())
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}") from None
    if taken:
        raise UsageError(f"{out} is not empty: name a folder of their own for the random bundles, or empty this one")


def _whole(path: Path, where: str) -> onnx.ModelProto:
    source = load(path)
    if source.external:
        raise BundleError(
            f"{where}: {path.name} keeps more data beside its ONNX file than one file can hold; whymatch cannot "
            "randomise such a network. Export it in half precision, or test a smaller one"
        )
    return source.model


class _Network:
    """Which stored tensors of a similarity graph are weights of which block."""

    def __init__(self, model: onnx.ModelProto) -> None:
        if all(value.name != "embedding" for value in model.graph.output):
            raise BundleError(
                "the graph has no output 'embedding': whymatch randomises the similarity graph of a bundle"
            )
        self.model = model
        self.graph = tail._Graph(model)
        self.stored = _stored(model)
        self._check_kind()

    @cached_property
    def head(self) -> int:
        """How many blocks from the top have nothing in them or behind them that is not linear."""
        linear = self._linear()
        last = max((index for index in self._path if index not in linear), default=-1)
        return sum(lowest > 0 and self._bounds[lowest - 1] >= last for _, lowest in self.blocks)

    @cached_property
    def blocks(self) -> list[tuple[Block, int]]:
        """The blocks from the top, and the segment of the path in which the weights of each stand."""
        uses = {index: found for index in self._path if (found := list(self._uses(self.graph.nodes[index])))}
        layers = [index for index, found in uses.items() if self._is_layer(index, found)]
        if not layers:
            raise BundleError(
                "no weights were found between the image and the embedding: no Conv, Gemm, MatMul or other layer has "
                "a constant operand of floats. Is this the network's final export?"
            )
        segments: dict[int, list[tuple[int, _Use]]] = {}
        for index, found in uses.items():
            if index >= layers[0]:
                segments.setdefault(bisect_left(self._bounds, index), []).extend((index, use) for use in found)
        owned = self._owned(segments)
        homes = {
            segment: max((other for other in owned if other <= segment), default=min(owned)) for segment in segments
        }
        values = self._reset_values(segments, {use.tensor for uses in owned.values() for _, use in uses})
        made, names, done = [], dict[str, int](), set[str]()
        for home in sorted(owned, reverse=True):
            members = sorted(segment for segment in segments if homes[segment] == home)
            used = [use.tensor for segment in members for _, use in segments[segment] if use.reset is not None]
            resets = [name for name in dict.fromkeys(used) if name in values and name not in done]
            done.update(resets)
            name = self._scope(owned[home], resets)
            names[name] = names.get(name, 0) + 1
            weights = [use for _, use in owned[home]]
            tensors = [self.stored[one] for one in (*(use.tensor for use in weights), *resets)]
            block = Block(
                name if names[name] == 1 else f"{name}#{names[name]}",
                tuple(use.tensor for use in weights),
                tuple(use.deviation for use in weights),
                tuple((one, values[one]) for one in resets),
                sum(math.prod(tensor.dims) for tensor in tensors),
            )
            made.append((block, home))
        return made

    @cached_property
    def _path(self) -> list[int]:
        """The network's own nodes on paths from the image to the embedding, in the graph's order."""
        wanted, path = {"embedding"}, []
        for index in range(len(self.graph.nodes) - 1, -1, -1):
            if not wanted.isdisjoint(self.graph.nodes[index].output):
                path.append(index)
                wanted |= self.graph.taken[index] & self.graph.moving
        return [index for index in reversed(path) if not self.graph.nodes[index].name.startswith(NAMESPACE)]

    @cached_property
    def _bounds(self) -> list[int]:
        """The nodes that make the values which every path passes; segment s ends in the s-th of them."""
        makers = {name: index for index, node in enumerate(self.graph.nodes) for name in node.output}
        return [makers[name] for name in self.graph.cuts()]

    def _owned(self, segments: Mapping[int, list[tuple[int, _Use]]]) -> dict[int, list[tuple[int, _Use]]]:
        """The weights of each segment that has any, with their nodes; a shared one is the topmost segment's."""
        taken, owned = set[str](), {}
        for segment in sorted(segments, reverse=True):
            found = dict[str, tuple[int, _Use]]()
            for index, use in segments[segment]:
                if use.reset is None and use.tensor not in taken:
                    found.setdefault(use.tensor, (index, use))
            taken.update(found)
            if found:
                owned[segment] = list(found.values())
        return owned

    def _reset_values(
        self, segments: Mapping[int, list[tuple[int, _Use]]], weights: Collection[str]
    ) -> dict[str, float]:
        values: dict[str, float] = {}
        for _, use in itertools.chain.from_iterable(segments.values()):
            if (
                use.reset is not None
                and use.tensor not in weights
                and values.setdefault(use.tensor, use.reset) != use.reset
            ):
                raise BundleError(
                    f"tensor {use.tensor!r} is both a shift and a scale of the network, so it has no fresh value: "
                    "export the network with a tensor for each"
                )
        return values

    def _scope(self, weights: list[tuple[int, _Use]], resets: list[str]) -> str:
        """The scope that the exporter kept of the last weight, or of what is added behind it; else its node's name."""
        index, last = weights[-1]
        for name in (last.tensor, *reversed(resets)):
            if "." in name:
                return name.rpartition(".")[0]
        return self.graph.nodes[index].name.strip("/") or last.tensor

    def _is_layer(self, index: int, uses: Iterable[_Use]) -> bool:
        return self.graph.nodes[index].op_type in _WEIGHTS and any(use.reset is None for use in uses)

    def _uses(self, node: onnx.NodeProto) -> Iterator[_Use]:
        """What ``node`` takes of stored tensors that training has made."""
        kind, resets = node.op_type, _RESETS.get(node.op_type, {})
        for place, name in enumerate(node.input):
            if not name or name in self.graph.moving:
                continue
            for tensor in self._constants(name):
                if place in _WEIGHTS.get(kind, ()):
                    if name == tensor or len(self.stored[tensor].dims) > 1:
                        yield _Use(tensor, math.sqrt(2 / max(_fan_in(node, place, self._shape(name)), 1)))
                elif place in resets:
                    yield _Use(tensor, 0.0, resets[place])
                elif kind in _TABLES and (_sides(self.stored[tensor]) > 1 or kind in ("Concat", "Gather")):
                    values = numpy_helper.to_array(self.stored[tensor]).astype(np.float64)
                    # masks of attention are two numbers; a table that was never trained may be one
                    if (place == 0 or kind != "Gather") and len(np.unique(values)) > 2 and np.isfinite(values).all():
                        yield _Use(tensor, float(values.std()))
                elif kind in _VECTORS and _sides(self.stored[tensor]) == 1:
                    yield _Use(tensor, 0.0, _VECTORS[kind])

    def _constants(self, name: str) -> list[str]:
        """The stored tensors of more than one float that ``name`` is made of, which does not depend on the image."""
        tensors = [value for value in self._behind(name) if value in self.stored]
        return [
            one for one in tensors if self.stored[one].data_type in _FLOATS and math.prod(self.stored[one].dims) > 1
        ]

    def _behind(self, name: str) -> dict[str, None]:
        """``name`` and all values that it is made of, but for what images are made of and shapes."""
        left, seen = [name], {name: None}
        while left:
            maker = self.graph.makers.get(value := left.pop())
            if value in self.stored or maker is None or maker.op_type in ("Shape", "Size"):
                continue
            fresh = [one for one in maker.input if one and one not in seen and one not in self.graph.moving]
            seen.update(dict.fromkeys(fresh))
            left.extend(fresh)
        return seen

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of an operand that is a stored tensor, or is computed from stored tensors."""
        if name in self.stored:
            return tuple(self.stored[name].dims)
        needed = self._behind(name)
        nodes = [node for node in self.graph.nodes if not set(node.output).isdisjoint(needed)]
        graph = helper.make_graph(
            nodes,
            "operand",
            [],
            [onnx.ValueInfoProto(name=name)],
            [tensor for tensor in self.model.graph.initializer if tensor.name in needed],
        )
        try:
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(self.model.opset_import)))
            found: Any = evaluator.run(None, {})
            return tuple(np.shape(found[0]))
        except Exception as error:  # its operators raise every kind
            raise BundleError(
                f"the weights {name!r} are computed within the network, by what whymatch cannot run apart "
                f"({type(error).__name__}): export the network with constants folded"
            ) from None

    def _check_kind(self) -> None:
        """BundleError for weights that are no floats of the outer graph, or lie elsewhere."""
        for node in self.graph.nodes:
            quantised = node.op_type in _QUANTISED or node.op_type.startswith("QLinear")
            if node.op_type == "DequantizeLinear":
                quantised = node.input[0] not in self.graph.moving
            if quantised:
                raise BundleError(
                    f"the network is quantised: {node.op_type} {node.name or node.output[0]!r} has weights of integers "
                    "with a scale of their own. Randomise a bundle of the float network that it was made from"
                )
            for attribute in node.attribute:
                for inner in all_nodes(one for graph in (attribute.g, *attribute.graphs) for one in graph.node):
                    if inner.op_type in _WEIGHTS:
                        raise BundleError(
                            f"{node.op_type} {node.name or node.output[0]!r} has layers within it "
                            f"({inner.op_type} {inner.name!r}), which whymatch cannot tell apart: export the network "
                            "without control flow"
                        )
        sparse = {one.values.name for one in self.model.graph.sparse_initializer}
        for node in self.graph.nodes:
            if found := sparse.intersection(node.input):
                raise BundleError(f"tensor {min(found)!r} is sparse: store it densely, whymatch cannot randomise it")
        for name, tensor in self.stored.items():
            if tensor.data_location == TensorProto.EXTERNAL:
                raise BundleError(f"tensor {name!r} lies outside of the model: load the network with its data")

    def _linear(self) -> set[int]:
        """The nodes on the path that are linear up to a constant, averages too, and those of the L2 norm."""
        graph = decomposition._Graph(self.model, "image")
        target, norm = graph.without_norm("embedding")
        while norm is not None:
            target, norm = graph.without_norm(target)
        # what stands behind the target is the norm
        last = next((index for index, node in enumerate(self.graph.nodes) if target in node.output), -1)
        found = set()
        for index in self._path:
            node = self.graph.nodes[index]
            average = node.op_type in decomposition._AVERAGES and graph.layout(node) is not None
            try:
                if index <= last and not average:
                    graph.check_linear(node)
            except decomposition.NoProjection:
                continue
            found.add(index)
        return found


@dataclass(frozen=True)
class _Use:
    """A stored tensor that a node takes: a weight of a standard deviation, or what is filled with ``reset``."""

    tensor: str
    deviation: float
    reset: float | None = None


def _fan_in(node: onnx.NodeProto, place: int, shape: tuple[int, ...]) -> int:
    """How many products of the operand of ``shape`` at ``place`` are summed up for one result."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    kind = node.op_type
    if kind in _CONVOLUTIONS:
        return math.prod(shape[1:])
    if kind == "ConvTranspose":  # [C, M / group, ...]: with strides, a result lies under a part of the kernel only
        steps: int = math.prod(given.get("strides", ()))
        return shape[0] // int(given.get("group", 1)) * math.prod(shape[2:]) // steps
    if kind in _PRODUCTS:
        turned = bool(given.get("transB" if place else "transA", 0))
        return shape[0] if len(shape) == 1 else shape[-2 if (place == 1) != turned else -1]
    if kind == "Einsum":
        taken, _, result = given["equation"].decode().replace(" ", "").partition("->")
        letters = taken.split(",")[place].replace(".", "")
        summed = [letter not in result if result else taken.count(letter) > 1 for letter in letters]
        return math.prod(side for side, own in zip(shape[-len(letters) :], summed, strict=True) if own)
    return shape[0] if kind == "Attention" else shape[-1]


def _sides(tensor: TensorProto) -> int:
    return sum(side > 1 for side in tensor.dims)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` without functions of its own, whose constants are tensors."""
    made = onnx.ModelProto()
    made.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
    for node in made.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value_floats":
                values = numpy_helper.from_array(np.array(attribute.floats, np.float32))
                attribute.CopyFrom(helper.make_attribute("value", values))
    return made


def _stored(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """The tensors of the outer graph's initializers and Constant nodes, which may be changed in place."""
    constants = {
        node.output[0]: attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    return {**{tensor.name: tensor for tensor in model.graph.initializer}, **constants}


def _put(tensor: TensorProto, values: Array) -> None:
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values.astype(kind)), tensor.name))


def _draw(name: str, shape: tuple[int, ...], deviation: float, seed: int) -> Array:
    """Values of ``shape``, float64, that depend on the arguments alone."""
    digest = hashlib.sha256(f"{seed}\n{name}\n{shape}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest)).normal(0, deviation, shape)


@dataclass(frozen=True)
class _Copy:
    """A bundle, its similarity graph as it was and with random weights, and its gradient graph as it was."""

    described: Bundle
    network: onnx.ModelProto
    randomised: onnx.ModelProto
    gradient: onnx.ModelProto | None


def _write(copy: _Copy, folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the bundle of ``copy`` into ``folder``; BundleError where its network is no use."""
    described = copy.described
    similarity = _written(copy.randomised, folder, _NAME, described.similarity)
    if described.similarity.precision == "float16":
        _check_half(copy.randomised, described)
    probe = _Probe(described, runtime.session(folder / _NAME))
    probe.check()
    missing = dict(described.missing)
    gradient = projection = None
    if described.gradient is not None and copy.gradient is not None:
        try:
            made = _gradient(copy.gradient, copy.network, copy.randomised)
            gradient = _written(made, folder, "gradient.onnx", described.gradient)
            probe.check_gradient(runtime.session(folder / "gradient.onnx"), described.gradient)
        except _Untraced as reason:
            gradient = None
            (folder / "gradient.onnx").unlink(missing_ok=True)
            missing["gradient"] = f"the randomised copy of this bundle has no gradient graph, since {reason}"
    if described.projection is not None:
        try:
            graph = _projection(copy.randomised, described, probe.images)
            projection = _written(graph, folder, "projection.onnx", described.projection)
        except decomposition.NoProjection as reason:
            missing["projection"] = f"the randomised copy of this bundle has no projection, since {reason}"
    kept = replace(
        described,
        similarity=similarity,
        gradient=gradient,
        projection=projection,
        missing=missing,
        attributes=None,
        vocabulary=(),
        priors=None,
        concepts={},
        training={**described.training, "randomised": dict(record)},
    )
    bundle.write(kept, folder)


def _written(model: onnx.ModelProto, folder: Path, name: str, record: Network) -> Network:
    (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    return replace(record, files={name: bundle.file_sha256(folder / name)}, parity=None)


def _projection(network: onnx.ModelProto, described: Bundle, images: Image) -> onnx.ModelProto:
    """The projection graph of a similarity graph, measured on ``images``; NoProjection where there is none."""
    height, width = described.resize.size
    bare = onnx.ModelProto()
    bare.CopyFrom(network)
    fixed = {"mask": np.ones((1, height, width, 1), np.float32), "fill": np.zeros((1, 1, 1, 3), np.float32)}
    given = [value for value in bare.graph.input if value.name not in fixed]
    del bare.graph.input[:]
    bare.graph.input.extend(given)
    bare.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fixed.items())
    found = decomposition.project(
        bare,
        images,
        input="image",
        output="embedding",
        batch=described.similarity.batch,
        normalise=described.similarity_function == "cosine",
        open_session=lambda model: runtime.session(model.SerializeToString()),
    )
    if found.features.name != "features":
        raise decomposition.NoProjection(f"it would begin at {found.features.name!r}, not at the output 'features'")
    return decomposition.projection_graph(found)


def _images(size: tuple[int, int]) -> Image:
    return np.random.default_rng(0).integers(0, 256, (batches.PROBES, *size, 3), dtype=np.uint8)


def _check_half(network: onnx.ModelProto, described: Bundle) -> None:
    """BundleError where values within a graph of half precision leave it.

    The embedding alone does not tell: on a CPU, ONNX Runtime computes in single precision what nobody asks to see.
    """
    names = tail._Graph(network).cuts()
    session = runtime.session(tail._with_outputs(network, names).SerializeToString())
    given = _images(described.resize.size)
    images = np.resize(given, (described.similarity.batch or len(given), *given.shape[1:]))
    for name, value in zip(names, tail._run(session, names, images), strict=True):
        if np.issubdtype(np.asarray(value).dtype, np.floating) and not np.isfinite(value).all():
            raise BundleError(
                f"with random weights the values of {name!r} are not finite: without its trained scales the network "
                "leaves half precision. Randomise a bundle of it in float32"
            )


class _Probe:
    """A random similarity graph on a few images of noise."""

    def __init__(self, described: Bundle, session: Any) -> None:
        self.described, self.session = described, session
        self.size = described.resize.size
        self.images = _images(self.size)
        self.fill = np.zeros((1, 1, 1, 3), np.float32)

    def check(self) -> None:
        """BundleError where the embeddings are not finite, or do not tell the images from each other."""
        found = self._embeddings(self.images, np.ones((1, *self.size), np.float32))
        if not np.isfinite(found).all():
            raise BundleError(
                "with random weights the embeddings are not finite: without its trained scales the network's values "
                "outgrow their precision, so this test cannot be made of it"
            )
        if np.abs(found - found[0]).max() <= 1e-6 * np.abs(found).max():
            raise BundleError(
                "with random weights all images have one embedding: without its trained scales and shifts the network "
                "lets nothing of the image through, so this test says nothing about it"
            )

    def check_gradient(self, session: Any, record: Network) -> None:
        """_Untraced where the gradient graph has other embeddings, or its gradient is not the similarity's slope."""
        rows = record.batch or 1
        rng = np.random.default_rng(1)
        mask = rng.uniform(0.4, 0.6, (1, *self.size)).astype(np.float32)
        reference = self._embeddings(self.images[1:2], np.ones_like(mask))

        def run(masks: Float32) -> list[Array]:
            feeds = {
                "image": np.repeat(self.images[:1], rows, axis=0),
                "mask": np.repeat(masks, rows, axis=0),
                "fill": self.fill,
                "noise": self.fill,
                "reference": np.repeat(reference, rows, axis=0),
            }
            try:
                return [value[0] for value in session.run(["similarity", "gradient", "embedding"], feeds)]
            except Exception as error:  # onnxruntime's exceptions share no base class but Exception
                raise _Untraced(f"it does not run: {str(error).strip().splitlines()[0]}") from None

        similarity, slope, embedding = run(mask)
        expected = self._embeddings(self.images[:1], mask)[0]
        if not np.abs(embedding - expected).max() <= _EMBEDDINGS_AGREE * np.abs(expected).max():
            raise _Untraced("its embeddings would not be those of the randomised similarity graph")
        steepness = float(np.linalg.norm(slope.astype(np.float64)))
        if not 0 < steepness < math.inf:
            raise _Untraced("its gradient would be 0 or not finite")
        worst = math.inf
        for share in _STEPS:
            step = share * max(abs(float(similarity)), 1e-3) / steepness
            move = (slope / steepness * step).astype(np.float32)[None]
            change = float(run(mask + move)[0]) - float(run(mask - move)[0])
            worst = min(worst, abs(change / (2 * step * steepness) - 1))
        if not worst <= _SLOPES_AGREE:
            raise _Untraced(f"its gradient would differ from difference quotients by {worst:.0%}")

    def _embeddings(self, images: Image, mask: Float32) -> Float32:
        """[I,D] of ``images`` under one mask [1,H,W]."""
        rows = self.described.similarity.batch or len(images)
        found = []
        for start in range(0, len(images), rows):
            block = images[start : start + rows]
            padded = np.concatenate([block, np.repeat(block[-1:], rows - len(block), axis=0)])
            feeds = {"image": padded, "mask": mask[..., None], "fill": self.fill}
            try:
                found.append(self.session.run(["embedding"], feeds)[0][: len(block)])
            except Exception as error:  # onnxruntime's exceptions share no base class but Exception
                raise BundleError(f"its randomised copy fails: {str(error).strip().splitlines()[0]}") from None
        return np.concatenate(found)


class _Untraced(Exception):  # a reason, which becomes part of the bundle and not of a traceback
    """Why a gradient graph cannot be randomised, as half a sentence for users."""


def _gradient(graph: onnx.ModelProto, network: onnx.ModelProto, made: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the gradient graph of ``network`` with the weights of ``made``, a randomised copy of ``network``.

    Every tensor of more than one float is traced to the similarity graph: it is one of its tensors with axes in another
    order, mirrored, or regrouped; a weight and a batch normalisation, or its slope, that fold into one of its weights;
    or a single number throughout. _Untraced where one is none of these.
    """
    copied = _plain(graph)
    tensors = _stored(copied)
    given = {value.name for value in copied.graph.input}
    values = {name: value for name, value in _floats(tensors).items() if name not in given}
    old, new = _floats(_stored(_plain(network))), _floats(_stored(made))
    groups = (int(one.i) for node in copied.graph.node for one in node.attribute if one.name == "group")
    trace = _Trace(values, [(value, new[name]) for name, value in old.items()], groups)
    makers = {name: node for node in copied.graph.node for name in node.output}
    for node in copied.graph.node:
        if node.op_type == "BatchNormalization" and set(node.input[1:]) <= set(values):
            trace.normalisation(node, makers.get(node.input[0]))
    for node in copied.graph.node:
        for factor in node.input if node.op_type == "Mul" else ():
            if factor in values and factor not in trace.found:
                for other in copied.graph.node:
                    if (
                        other.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
                        and node.output[0] == other.input[0]
                    ):
                        trace.slope(factor, _viewed(other.input[1], makers))
    for name, value in values.items():
        if name not in trace.found and not trace.rest(name):
            raise _Untraced(
                f"its tensor {name!r} of shape {list(value.shape)} could not be traced to the similarity graph"
            )
        _put(tensors[name], trace.found[name])
    return copied


def _viewed(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """The value that ``name`` shows in another order or shape."""
    while (node := makers.get(name)) is not None and node.op_type in ("Slice", "Reshape", "Transpose", "Identity"):
        name = node.input[0]
    return name


class _Trace:
    """Where the tensors ``values`` of a gradient graph come from, and what becomes of them.

    ``found`` holds what they are now. ``origins`` are pairs of tensors as they were and as they are now.
    """

    def __init__(self, values: Mapping[str, Array], origins: list[tuple[Array, Array]], groups: Iterable[int]) -> None:
        self.values, self.origins = values, origins
        self.groups = sorted({1, *groups})
        self.contents: dict[tuple[int, ...], list[tuple[Array, Array]]] = {}
        for before, after in origins:
            self._add(before, after)
        self.slopes: list[tuple[Array, Array]] = []
        self.found = {name: value for name, value in values.items() if name.startswith(NAMESPACE)}
        for name in values.keys() - self.found.keys():
            self._rearrangement(name)

    def normalisation(self, node: onnx.NodeProto, layer: onnx.NodeProto | None) -> None:
        """Traces the batch normalisation ``node`` and the weights of ``layer`` in front of it, if those fold into one.

        The similarity graph has no such normalisation then; what was random in the weights becomes its identity.
        """
        scale, shift, mean, variance = node.input[1:5]
        epsilon = next((float(attribute.f) for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        fresh = {scale: 1.0, shift: 0.0, mean: 0.0, variance: 1.0 - epsilon}
        if layer is not None and layer.op_type in ("Conv", "Gemm", "MatMul"):
            weight, bias = layer.input[1], [name for name in layer.input[2:3] if name in self.values]
            inverse = 1 / np.sqrt(self.values[variance].astype(np.float64) + epsilon)
            if weight in self.values and weight not in self.found:
                random = self._fold(weight, self.values[scale] * inverse)
                if random is not None:
                    fresh.update(dict.fromkeys(bias, 0.0))
                    for name, value in fresh.items():
                        self.found[name] = np.full(self.values[name].shape, value) if random else self.values[name]
                    self._add(self.values[weight], self.found[weight])
        if {scale, variance} <= set(self.found):
            before, after = (
                [one.astype(np.float64) for one in (where[scale], where[variance])]
                for where in (self.values, self.found)
            )
            for power in (0, 1):  # the backward pass multiplies by both in one, or one after the other
                self.slopes.append(
                    (
                        before[0] ** power / np.sqrt(before[1] + epsilon),
                        after[0] ** power / np.sqrt(after[1] + epsilon),
                    )
                )

    def slope(self, factor: str, weight: str) -> None:
        """Traces ``factor`` [1,C,1,1] and ``weight`` behind it, if both fold into one weight of the similarity graph.

        Exporters fold a normalisation in the forward pass, and leave it apart in the backward pass.
        """
        if weight in self.values and weight not in self.found and factor not in self.found:
            random = self._fold(weight, self.values[factor].ravel())
            if random is not None:
                value = self.values[factor]
                self.found[factor] = np.ones_like(value) if random else value
                self._add(self.values[weight], self.found[weight])

    def rest(self, name: str) -> bool:
        """Traces a tensor to one that was traced before, to a normalisation's slope, or a number; whether it could."""
        value = self.values[name]
        if not self._rearrangement(name):
            near = [after for before, after in self.slopes if _close(value.ravel(), before)]
            if any(not np.allclose(near[0], other, rtol=1e-4) for other in near):
                raise _Untraced(f"its tensor {name!r} may come from either of two normalisations")
            if near:
                self.found[name] = near[0].reshape(value.shape)
            elif (value == value.flat[0]).all():
                self.found[name] = value
        return name in self.found

    def _rearrangement(self, name: str) -> bool:
        value = self.values[name]
        results = [
            now
            for before, after in self.contents.get(_content(value), ())
            for was, now in self._pairs(before, after, value.shape)
            if np.array_equal(was, value)
        ]
        return self._settle(name, results)

    def _fold(self, weight: str, slope: Array) -> bool | None:
        """Traces ``weight``, which times ``slope`` [C] is a weight of the similarity graph; whether that is random."""
        value = self.values[weight]
        results, random = [], False
        for before, after in self.origins:
            for axis in range(min(before.ndim, 2)) if before.size == value.size and before.ndim > 1 else ():
                if before.shape[axis] != slope.size:
                    continue
                shape = [slope.size if one == axis else 1 for one in range(before.ndim)]
                factors = np.broadcast_to(slope.reshape(shape), before.shape)
                for (was, now), (factor, _) in zip(
                    self._pairs(before, after, value.shape), self._pairs(factors, factors, value.shape), strict=True
                ):
                    first = value[:1] * factor[:1], was[:1]  # tells most apart
                    if _close(*first) and _close(value * factor, was):
                        same = np.array_equal(before, after)
                        results.append(value if same else now)
                        random = random or not same
        return random if self._settle(weight, results) else None

    def _settle(self, name: str, results: list[Array]) -> bool:
        if any(not np.array_equal(results[0], other) for other in results):
            raise _Untraced(f"its tensor {name!r} may be either of two of the similarity graph")
        if results:
            self.found[name] = results[0]
        return bool(results)

    def _add(self, before: Array, after: Array) -> None:
        self.contents.setdefault(_content(before), []).append((before, after))

    def _pairs(self, before: Array, after: Array, shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        return zip(_rearranged(before, shape, self.groups), _rearranged(after, shape, self.groups), strict=True)


def _rearranged(values: Array, shape: tuple[int, ...], groups: Iterable[int]) -> Iterator[Array]:
    """``values`` as ``shape``: regrouped, mirrored, and with its axes in every order that gives it."""
    sides = [side for side in shape if side > 1]
    for count in groups:
        grouped = values
        if count > 1:
            if values.ndim < 3 or len(values) % count:
                continue
            parts = values.reshape(count, len(values) // count, *values.shape[1:])
            grouped = parts.swapaxes(1, 2).reshape(count * values.shape[1], len(values) // count, *values.shape[2:])
        spatial = tuple(range(2, grouped.ndim))
        mirrors = (grouped, np.flip(grouped, spatial)) if math.prod(grouped.shape[2:]) > 1 else (grouped,)
        for turned in (mirrored.squeeze() for mirrored in mirrors):
            for order in itertools.permutations(range(turned.ndim)):
                if [turned.shape[axis] for axis in order] == sides:
                    yield turned.transpose(order).reshape(shape)


def _content(values: Array) -> tuple[int, ...]:
    """Numbers that are the same for the same values in whatever order."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return values.size, int(bits.sum()), int((bits * bits).sum())


def _floats(stored: Mapping[str, TensorProto]) -> dict[str, Array]:
    """The tensors of more than one float, in single precision or better."""
    return {
        name: numpy_helper.to_array(tensor).astype(np.float64 if tensor.data_type == TensorProto.DOUBLE else np.float32)
        for name, tensor in stored.items()
        if tensor.data_type in _FLOATS and math.prod(tensor.dims) > 1
    }


def _close(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() <= _SAME * np.abs(other).max())
