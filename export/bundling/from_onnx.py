"""``whymatch bundle``: a bundle of somebody's own ONNX files, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from export.bundling import preprocessor_config as configs
from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph, check_names
from export.bundling.check_embedding import ExpectedEmbedding, check
from export.bundling.prefix import Activation
from export.bundling.preprocessing import Preprocessing
from export.bundling.preprocessing_settings import PreprocessingFlags, declared, settle_preprocessing, with_layout
from export.graphs.network_file import load
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.similarity import SimilarityFunction
from transforms.serving.bundle import Bundle


@dataclass(frozen=True)
class AttributeFlags:
    """The attribute network that was asked for, None where there is none, or where it leaves no doubt.

    Attributes:
      attributes_onnx: its file.
      vocabulary: the attributes' names in the order of the network's scores, or a file with one name a line.
      attributes_input, scores_output, maps_output, activation: as in ``export.bundling.bundle_spec.AttributeGraph``.
    """

    attributes_onnx: str | Path | None = None
    vocabulary: Sequence[str] | str | Path | None = None
    attributes_input: str | None = None
    scores_output: str | None = None
    maps_output: str | None = None
    activation: Activation = "none"


@dataclass(frozen=True)
class BundleRequest:
    """What ``whymatch bundle`` is asked for.

    Attributes:
      similarity_onnx: the embedding network's file.
      out: the new folder of the bundle.
      input, output: names, None where there is only one.
      preprocessing: what stands in front of the network, as far as it is stated.
      preprocessor_config: a file with the rest; None for the one of that name beside the network, if there is one.
      similarity_function: of embeddings.
      attributes: the attribute network. It takes the same preprocessing, in its own layout.
      check: an embedding that the bundle has to give; where it does not, nothing is written.
    """

    similarity_onnx: str | Path
    out: str | Path
    input: str | None = None
    output: str | None = None
    preprocessing: PreprocessingFlags = field(default_factory=PreprocessingFlags)
    preprocessor_config: str | Path | None = None
    similarity_function: SimilarityFunction = "cosine"
    attributes: AttributeFlags = field(default_factory=AttributeFlags)
    check: ExpectedEmbedding | None = None


def bundle_command(request: BundleRequest, *, echo: Callable[[str], object] = print) -> Bundle:
    """Makes the bundle that ``request`` describes.

    What stands in front of the network comes from the request, then from the network's declared input shape, then
    from a preprocessor_config.json; it is never guessed, and what was used is shown through ``echo``.

    Raises:
      UsageError: a setting is missing or contradicts the network, or the check fails; the message says what to do.
      BundleError: a network cannot serve.
    """
    file, expected = request.similarity_onnx, request.check
    config = _config(file, request.preprocessor_config)
    settings = settle_preprocessing(load(file).model, request.input, request.preprocessing, config)
    echo(f"{file}: what stands in front of it")
    for line in settings.lines():
        echo(line)
    similarity = SimilarityGraph(file, settings.preprocessing, request.input, request.output)

    def verify(bundle: Bundle, folder: Path) -> None:
        if expected is not None:
            found = check(bundle, folder, similarity, expected)
            echo(f"check: {expected.image} as in {expected.embedding} ({found})")

    spec = BundleSpec(
        similarity=similarity,
        resize=settings.resize,
        similarity_function=request.similarity_function,
        attributes=_attributes(request.attributes, settings.preprocessing),
    )
    made = build(request.out, spec, verify=verify)
    for line in _summary(made):
        echo(line)
    echo(f"{request.out}: a bundle, model {made.model_id}")
    return made


def _attributes(flags: AttributeFlags, preprocessing: Preprocessing) -> AttributeGraph | None:
    """The attribute network, with the similarity network's ``preprocessing`` in its own layout."""
    names = _vocabulary(flags.vocabulary)
    if flags.attributes_onnx is None:
        check_names(network=False, names=len(names))
        return None
    layout = declared(load(flags.attributes_onnx).model, flags.attributes_input).get("layout")
    return AttributeGraph(
        network=flags.attributes_onnx,
        vocabulary=names,
        preprocessing=with_layout(preprocessing, layout),
        input=flags.attributes_input,
        scores=flags.scores_output,
        maps=flags.maps_output,
        activation=flags.activation,
    )


def _config(network: str | Path, given: str | Path | None) -> Path | None:
    """The preprocessor_config.json to read, if there is one."""
    beside = Path(network).parent / configs.FILE
    if given is not None:
        return Path(given)
    return beside if beside.is_file() else None


def _vocabulary(given: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    """The names, of a list or of a file with one a line; UsageError for an empty or repeated name."""
    if given is None:
        return ()
    names = tuple(given) if not isinstance(given, str | Path) else tuple(_lines(given))
    if not names:
        raise UsageError(f"--vocabulary {given} holds no name")
    for index, name in enumerate(names):
        if not name.strip():
            raise UsageError(
                f"name {index + 1} of the vocabulary is empty: scores and names are matched by their order"
            )
        if name in names[:index]:
            raise UsageError(f"the vocabulary holds {name!r} twice: every score needs a name of its own")
    return names


def _lines(path: str | Path) -> list[str]:
    try:
        return storage.read_file(str(path), max_bytes=2**24).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"--vocabulary {path} is no UTF-8 text: {error}") from None


def _summary(made: Bundle) -> list[str]:
    """What became of the networks."""
    served = [(made.similarity, f"similarity: embedding of {made.embedding_size}")]
    if made.attributes is not None:
        served.append((made.attributes, f"attributes: {len(made.vocabulary)} names"))
    lines = []
    for network, what in served:
        batch = "any batch size" if network.batch is None else f"batches of exactly {network.batch}"
        used = network.preprocessing
        ends = ", ".join(f"{key} {used[key]!r}" for key in ("input", "output", "scores", "maps") if key in used)
        lines.append(f"{what}, {network.precision}, {batch} ({ends}), sha256 {network.files[network.file][:12]}")
    lines.append(f"embeddings are compared by {made.similarity_function}")
    if made.attributes is None:
        lines.append("no attribute network: explanations will be maps only")
    return lines
