"""A bundle for every stage of a cascade of randomisation, from the embedding down to the image.

A map that explains a network has to change when the network's weights do. Randomisation cascades: the top block alone,
the two top blocks, and so on down to the image, where nothing of the trained network is left (Adebayo et al. 2018,
arXiv 1810.03292, section 3.1). Works on any bundle's graph; onnx and numpy only, no torch.

The gradient graph gets the random weights too (``export.randomisation.gradient``), and is run against the similarity
graph; where that fails there is none. The projection is measured anew. The attribute network explains nothing of a
random embedding and is left out.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from export.graphs import linear_head
from export.graphs.blocks import blocks, linear_blocks
from export.graphs.network_file import load
from export.randomisation.checks import check_embeddings, check_gradient, check_half, noise
from export.randomisation.gradient import Untraced, randomised_gradient
from export.randomisation.randomise import randomised
from transforms.core.errors import BundleError, UsageError
from transforms.serving import bundle, runtime
from transforms.serving.bundle import Bundle, Network


@dataclass(frozen=True)
class RandomisedBundle:
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


@dataclass(frozen=True)
class _Source:
    """A trained bundle and its graphs."""

    described: Bundle
    network: onnx.ModelProto
    gradient: onnx.ModelProto | None


def cascade(bundle_folder: Path, out: Path, *, stages: int | None, seed: int) -> tuple[RandomisedBundle, ...]:
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
    source = _read(bundle_folder)
    try:
        return tuple(_stages(source, out, stages, seed))
    except BaseException as error:
        for made in out.iterdir():  # all or nothing: a part would look like a cascade of fewer stages
            shutil.rmtree(made)
        if isinstance(error, BundleError):
            raise BundleError(f"{bundle_folder / source.described.similarity.file}: {error}") from None
        raise


def depths(count: int, stages: int | None) -> list[int]:
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


def _read(folder: Path) -> _Source:
    with tempfile.TemporaryDirectory(prefix="whymatch-randomise-") as temporary:
        described = bundle.fetch(str(folder), Path(temporary))
        files = [record.file for record in (described.similarity, described.gradient) if record is not None]
        loaded = {file: load(Path(temporary, file)) for file in files}
    for file, read in loaded.items():
        if read.external:
            raise BundleError(
                f"{folder / file} keeps more data beside its ONNX file than one file can hold; whymatch cannot "
                "randomise such a network. Export it in half precision, or test a smaller one"
            )
    network, *gradient = (read.model for read in loaded.values())
    return _Source(described, network, next(iter(gradient), None))


def _stages(source: _Source, out: Path, stages: int | None, seed: int) -> Iterator[RandomisedBundle]:
    every, linear = blocks(source.network), linear_blocks(source.network)
    if len(every) < 2:
        raise BundleError(
            f"the network has one block, {every[0].name!r}: between image and embedding is no value that all paths "
            "pass, so there is nothing to cascade over. Use randomised() for the whole of it"
        )
    for count in depths(len(every), stages):
        top = every[:count]
        folder = out / f"top-{count:0{len(str(len(every)))}d}"
        folder.mkdir()
        record = {
            "of": source.described.model_id,
            "blocks": [block.name for block in top],
            "all_blocks": len(every),
            "seed": seed,
        }
        _write(source, randomised(source.network, top, seed), folder, record)
        yield RandomisedBundle(folder, top[-1].name, count / len(every), count <= linear)


def _write(source: _Source, network: onnx.ModelProto, folder: Path, record: Mapping[str, Any]) -> None:
    """Writes ``source`` with the similarity graph ``network`` into ``folder``; BundleError where that is no use."""
    described = source.described
    similarity = _written(network, folder, "similarity.onnx", described.similarity)
    if described.similarity.precision == "float16":
        check_half(network, described)
    session = runtime.session(folder / "similarity.onnx")
    check_embeddings(session, described)
    missing = dict(described.missing)
    gradient = projection = None
    try:
        gradient = _gradient(source, network, folder, session)
    except Untraced as reason:
        (folder / "gradient.onnx").unlink(missing_ok=True)
        missing["gradient"] = f"the randomised copy of this bundle has no gradient graph, since {reason}"
    try:
        projection = _projection(network, described, folder)
    except linear_head.NoProjection as reason:
        missing["projection"] = f"the randomised copy of this bundle has no projection, since {reason}"
    training = {**described.training, "randomised": dict(record)}
    graphs = replace(described, similarity=similarity, gradient=gradient, projection=projection, missing=missing)
    bundle.write(replace(graphs, attributes=None, vocabulary=(), priors=None, concepts={}, training=training), folder)


def _written(model: onnx.ModelProto, folder: Path, name: str, record: Network) -> Network:
    (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    return replace(record, files={name: bundle.file_sha256(folder / name)}, parity=None)


def _gradient(source: _Source, network: onnx.ModelProto, folder: Path, similarity: Any) -> Network | None:
    """Writes the gradient graph of ``network``, whose session is ``similarity``, if the bundle has one.

    Untraced where it cannot be had.
    """
    record = source.described.gradient
    if record is None or source.gradient is None:
        return None
    made = _written(randomised_gradient(source.gradient, source.network, network), folder, "gradient.onnx", record)
    check_gradient(runtime.session(folder / "gradient.onnx"), similarity, source.described, record.batch)
    return made


def _projection(network: onnx.ModelProto, described: Bundle, folder: Path) -> Network | None:
    """Writes the projection of ``network``, if the bundle has one; NoProjection where it cannot be had."""
    if described.projection is None:
        return None
    size = described.resize.size
    bare = onnx.ModelProto()
    bare.CopyFrom(network)
    fixed = {"mask": np.ones((1, *size, 1), np.float32), "fill": np.zeros((1, 1, 1, 3), np.float32)}
    given = [value for value in bare.graph.input if value.name not in fixed]
    del bare.graph.input[:]
    bare.graph.input.extend(given)
    bare.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fixed.items())
    found = linear_head.project(
        bare,
        noise(size),
        input="image",
        output="embedding",
        batch=described.similarity.batch,
        normalise=described.similarity_function == "cosine",
        open_session=lambda model: runtime.session(model.SerializeToString()),
    )
    if found.features.name != "features":
        raise linear_head.NoProjection(f"it would begin at {found.features.name!r}, not at the output 'features'")
    return _written(linear_head.projection_graph(found), folder, "projection.onnx", described.projection)
