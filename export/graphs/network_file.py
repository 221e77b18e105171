"""One ONNX file of anybody's: read without following it outside of its folder, and what its graph says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from transforms.core.errors import BundleError

Layout = Literal["nchw", "nhwc"]
"""The order of an image batch's axes."""

DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))
"""The operator domains that ONNX Runtime knows by itself; others need a library of somebody's code."""

Opener = Callable[[onnx.ModelProto], Any]
"""Opens an onnxruntime session of a model."""

TOLERANCE = {"float32": 1e-4, "float16": 1e-2}
"""How far what a network gives in one way may be from what it gives in another, of the largest value, by precision."""

MIN_OPSET = 8
INLINE_LIMIT = 1_900_000_000
"""Bytes of external data that still go into the one file; protobuf ends at 2 GiB."""

_FLOATS: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


@dataclass(frozen=True)
class Source:
    """A network as it was read. ``external`` maps the names that its tensors still use for data outside of the ONNX
    file to those files; empty where all data lies in ``model``."""

    model: onnx.ModelProto
    external: dict[str, Path] = field(default_factory=dict)


def load(network: str | Path | onnx.ModelProto) -> Source:
    """Reads a network and checks its operator domains and its external data.

    External data is taken into the model as far as one file can hold it.

    Raises:
      BundleError: no ONNX file, an operator of an unknown domain, or external data outside of the file's folder.
    """
    if isinstance(network, onnx.ModelProto):
        check_domains(network)
        if any(uses_external_data(tensor) for tensor in tensors(network)):
            raise BundleError("this network keeps data outside of itself: pass the path of its file instead")
        return Source(network)
    path = Path(network)
    try:
        model = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # protobuf raises its own errors for bytes that are no model
        raise BundleError(f"{path} is no ONNX file: {error}") from None
    model.ir_version = max(model.ir_version, 4)  # before 4, every initializer had to be an input too
    if not model.graph.output:
        raise BundleError(f"{path} is no ONNX network: it has no output")
    check_domains(model)
    external = _external_files(model, path.absolute().parent)
    if sum(file.stat().st_size for file in external.values()) > INLINE_LIMIT:
        return Source(model, external)
    for tensor in tensors(model):
        if uses_external_data(tensor):
            try:
                load_external_data_for_tensor(tensor, str(path.absolute().parent))
            except (OSError, ValueError, onnx.checker.ValidationError) as error:
                raise BundleError(f"{path}: external data of {tensor.name!r} cannot be read: {error}") from None
    return Source(model)


def check_domains(model: onnx.ModelProto) -> None:
    """BundleError where a node, of whatever inner graph or function, is of a domain outside of ``DOMAINS``."""
    local = {(function.domain, function.name) for function in model.functions}
    for node in _every_node(model):
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in local:
            raise BundleError(
                f"operator {node.op_type} is of the domain {node.domain!r}, which needs a library of its own; "
                f"whymatch runs those of {', '.join(sorted(repr(domain) for domain in DOMAINS))} only"
            )


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """``nodes`` and those of all graphs inside of them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner.node)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph`` and all graphs inside of its nodes."""
    yield graph
    for node in all_nodes(graph.node):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
            yield from attribute.graphs


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a model stores: initializers and attributes, of inner graphs and functions too."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _every_node(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def default_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the network uses; BundleError where it is too old."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or versions[0] < MIN_OPSET:
        raise BundleError(
            f"the network is of ONNX opset {versions[0] if versions else 'none'}, expected {MIN_OPSET} or newer: "
            "export it again, or convert it with onnx.version_converter"
        )
    return int(versions[0])


def image_input(model: onnx.ModelProto, name: str | None = None) -> onnx.ValueInfoProto:
    """The one input that the network cannot do without, float32 or float16 of rank 4."""
    stored = {tensor.name for tensor in model.graph.initializer}
    needed = [value for value in model.graph.input if value.name not in stored]
    value = _pick(needed, name, "input", "--input")
    if others := [other.name for other in needed if other.name != value.name]:
        raise BundleError(
            f"beside {value.name!r} the network needs {', '.join(map(repr, others))}; "
            "whymatch feeds an image and nothing else. Export the image part alone."
        )
    precision(value)
    if value.type.tensor_type.HasField("shape") and len(shape(value)) != 4:
        raise BundleError(f"input {value.name!r} has shape {_text(value)}, expected rank 4: a batch of colour images")
    return value


def pick_output(model: onnx.ModelProto, name: str | None = None, flag: str = "--output") -> onnx.ValueInfoProto:
    """The output ``name``, or the only one; float32 or float16."""
    value = _pick(list(model.graph.output), name, "output", flag)
    precision(value)
    return value


def precision(value: onnx.ValueInfoProto) -> str:
    """ "float32" or "float16"; BundleError for what is neither."""
    kind = int(value.type.tensor_type.elem_type)
    if kind not in _FLOATS:
        raise BundleError(
            f"{value.name!r} is of type {helper.tensor_dtype_to_string(kind)}, expected float32 or float16. "
            "Quantised networks work where their inputs and outputs are float."
        )
    return _FLOATS[kind]


def shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The declared shape; None for dimensions that are not fixed, () where none is declared."""
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def _every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from all_nodes(model.graph.node)
    for function in model.functions:
        yield from all_nodes(function.node)


def _pick(values: list[onnx.ValueInfoProto], name: str | None, what: str, flag: str) -> onnx.ValueInfoProto:
    listed = ", ".join(f"{value.name} {_text(value)}" for value in values) or "none"
    if name is None:
        if len(values) != 1:
            raise BundleError(f"the network has {len(values)} {what}s ({listed}): name the right one with {flag}")
        return values[0]
    for value in values:
        if value.name == name:
            return value
    raise BundleError(f"the network has no {what} {name!r}; it has {listed}. Name one of them with {flag}.")


def _text(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "[" + ",".join(dim.dim_param or (str(dim.dim_value) if dim.dim_value else "?") for dim in dims) + "]"


def _external_files(model: onnx.ModelProto, folder: Path) -> dict[str, Path]:
    """The files of external data by the name that the model has for them; all of them lie in ``folder``."""
    files: dict[str, Path] = {}
    for tensor in tensors(model):
        if not uses_external_data(tensor):
            continue
        name = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        inside = PurePosixPath(name)
        if not name or inside.is_absolute() or ".." in inside.parts or "\\" in name:
            raise BundleError(f"external data {name!r} of {tensor.name!r} is outside of the network's folder")
        file = folder / inside
        if file.resolve() != folder.resolve() / inside:
            raise BundleError(
                f"external data {name!r} is reached through a symbolic link, which may lead anywhere: "
                "copy the network and its data to one folder (cp -L)"
            )
        if not file.is_file():
            raise BundleError(f"external data {name!r} of {tensor.name!r} is missing: {file} is no file")
        files[name] = file
    return files
