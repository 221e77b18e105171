"""The slope of the similarity as an ONNX graph: what a worker without torch asks of ``gradient.onnx``.

    x float32 [B,3,H,W], normalised; reference float32 [B,D] -> similarity s [B], ds/dx [B,3,H,W], embedding [B,D]

For a similarity that has conditions the graph has a third input, condition float32 [1,D], the mask by which embeddings
are multiplied before they are compared; references, and the embedding that comes out, are what is left behind the mask.

``torch.func.grad_and_value`` of the network and the similarity is traced to ATen operations with ``make_fx`` and
exported as any network is. The gradient of the sum over the batch is each row's own gradient, because rows do not meet
in a network in evaluation mode. What ONNX has no operator for is spelled out (``export.bundling.backward_rules``);
attention takes its mathematical form, since the fused kernels have opaque gradients. Mask, image and fill are put in
front by ``export.bundling.gradient_prefix``.

Only the batch is symbolic: with symbolic sides too, as ``make_fx`` has it by itself, the trace of ResNet-18 takes 20
times as long, and "same" padding becomes arithmetic in the graph. A network that writes its batch into its operations
all the same is traced at a fixed one (``BATCH``), which the caller fills up.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize

from export.bundling.backward_rules import decompositions
from transforms.core.errors import BundleError
from transforms.core.similarity import SimilarityFunction

BATCH = 8
"""The batch of a network that takes no other than the one it was traced with."""
_EXAMPLE = 5  # of the dynamic trace: unlike 1, 2, 3 channels and the sides of small maps, so no dimension is confused
_OPSET = 20
_OPERATION = re.compile(r"\b(?:aten|prims|torchvision|quantized)(?:\.|::)\w+")
_OUTPUTS = ("similarity", "gradient", "embedding")

Values = tuple[Tensor, Tensor, Tensor]
_torch_linear = nn.functional.linear


@dataclass(frozen=True)
class Traced:
    """The traced core (x, reference) -> (similarity, gradient, embedding); ``batch`` is its only one, None for any.

    Where it is ``conditional``, the core takes a condition [1,D] too.
    """

    core: fx.GraphModule
    batch: int | None
    size: tuple[int, int]
    dimension: int
    conditional: bool = False


def similarity(
    embeddings: Tensor, references: Tensor, function: SimilarityFunction, condition: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Similarity [B] of rows of ``embeddings`` and ``references`` [B, D], and the embeddings as a bundle gives them.

    The embeddings are multiplied by the mask ``condition`` [1, D] first, if there is one; the references have been.
    Cosine: the embeddings' unit vectors times the references, which are unit vectors already. At a distance of 0 the
    negative distance has no gradient; 0, which is one of its subgradients, is taken.
    """
    if condition is not None:
        embeddings = embeddings * condition
    if function == "euclidean":
        square = (embeddings - references).square().sum(1)
        apart = square > 0
        return -torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0), embeddings
    if function == "cosine":
        embeddings = normalize(embeddings, dim=1, eps=1e-12)
    return (embeddings * references).sum(1), embeddings


def trace(
    network: nn.Module,
    size: tuple[int, int],
    function: SimilarityFunction,
    *,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    conditional: bool = False,
) -> Traced:
    """Traces the gradient of a copy of ``network`` for frames of ``size`` (H, W), at ``batch``, None for any.

    With ``conditional`` it is that of a similarity under a condition, a third input.

    Raises:
      BundleError: the network cannot be differentiated by operations alone, or (for batch None) fixes its batch.
    """
    rows = batch or _EXAMPLE
    x = torch.zeros(rows, 3, *size, dtype=dtype)
    with _stated("differentiate"), torch.no_grad():
        network = copy.deepcopy(network).to("cpu", dtype).eval().requires_grad_(False)
        dimension = network(x).shape[1]
    examples = [x, torch.zeros(rows, dimension, dtype=dtype)]
    if conditional:
        examples.append(torch.ones(1, dimension, dtype=dtype))
    with _stated("differentiate"), _plain_attention():
        given = _any_batch(examples) if batch is None else examples
        core = make_fx(
            _core(network, function),
            decomposition_table=decompositions(),
            tracing_mode="fake" if batch else "symbolic",
            _allow_non_fake_inputs=True,
        )(*given)
    if batch is None and not _symbolic(core):
        raise BundleError(f"torch cannot trace the network for any batch: it fixes the {rows} rows of the example")
    core.graph.eliminate_dead_code()
    core.recompile()
    return Traced(core.eval(), batch, size, dimension, conditional)


def trace_to_onnx(
    network: nn.Module, size: tuple[int, int], function: SimilarityFunction, conditional: bool = False
) -> onnx.ModelProto:
    """The core's ONNX graph for any batch, or, where the network cannot, for batches of ``BATCH``; else BundleError.

    ``conditional`` where the bundle has conditions.
    """
    try:
        return to_onnx(trace(network, size, function, conditional=conditional))
    except BundleError:
        return to_onnx(trace(network, size, function, batch=BATCH, conditional=conditional))


def to_onnx(traced: Traced) -> onnx.ModelProto:
    """The ONNX graph ``x``, ``reference`` -> ``similarity``, ``gradient``, ``embedding`` of a trace in float32.

    The third input of one that is conditional is ``condition``.
    """
    rows = traced.batch or _EXAMPLE
    examples = [torch.zeros(rows, 3, *traced.size), torch.zeros(rows, traced.dimension)]
    batch = None if traced.batch else torch.export.Dim("batch")
    dimensions: list[dict[int, Any]] = [{0: batch}, {0: batch}]
    if traced.conditional:
        examples.append(torch.ones(1, traced.dimension))
        dimensions.append({})
    with _stated("export"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.onnx.export(
            traced.core,
            tuple(examples),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["x", "reference", "condition"][: len(examples)],
            output_names=list(_OUTPUTS),
            dynamic_shapes=None if batch is None else tuple(dimensions),
            verbose=False,
        )
    if program is None:
        raise BundleError("torch exported nothing")
    model: onnx.ModelProto = program.model_proto
    return model


def _core(network: nn.Module, function: SimilarityFunction) -> Callable[..., Values]:
    def total(x: Tensor, reference: Tensor, *condition: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        scores, embedding = similarity(network(x), reference, function, *condition)
        return scores.sum(), (scores, embedding)

    def core(x: Tensor, reference: Tensor, *condition: Tensor) -> Values:
        gradient, (_, (scores, embedding)) = torch.func.grad_and_value(total, has_aux=True)(x, reference, *condition)
        return scores, gradient, embedding

    return core


def _any_batch(examples: Sequence[Tensor]) -> list[Tensor]:
    """``examples`` as fake tensors of which the first dimension alone is a symbol, where it is the batch."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    contexts: list[StatelessSymbolicContext[Any, Any]] = [
        StatelessSymbolicContext(
            dynamic_sizes=[DimDynamic.DYNAMIC if len(example) == _EXAMPLE else DimDynamic.STATIC]
            + [DimDynamic.STATIC] * (example.ndim - 1)
        )
        for example in examples
    ]
    return [mode.from_tensor(one, symbolic_context=context) for one, context in zip(examples, contexts, strict=True)]


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer of sequences without the addition in place by which torch adds its bias.

    The gradient of an addition to a view is made of strides in memory, which no exporter knows and which fix the batch.
    """
    if bias is None or input.ndim <= 2:
        return _torch_linear(input, weight, bias)
    return torch.matmul(input, weight.t()) + bias


def _symbolic(core: fx.GraphModule) -> bool:
    """Whether the batch is still a symbol in what ``core`` gives."""
    results = core.graph.output_node().args[0]
    return all(isinstance(result.meta["val"].shape[0], torch.SymInt) for result in results)  # type: ignore[union-attr]


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention in its mathematical form: the fused kernels have gradients that are one operation each."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    nn.functional.linear = _linear
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        nn.functional.linear = _torch_linear
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _stated(what: str) -> Iterator[None]:
    """Turns whatever torch raises into one line that names the operation in the way."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:  # torch's tracers raise every kind, and a user's network may too
        raise BundleError(f"torch cannot {what} {_obstacle(error)}") from error


def _obstacle(error: BaseException) -> str:
    """The operation that an error names, else its first line."""
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    for one in reversed(seen):
        if found := _OPERATION.search(str(one)):
            return found[0].replace("::", ".")
    lines = str(seen[0]).strip().splitlines()
    return f"the network: {lines[0] if lines else type(seen[0]).__name__}"
