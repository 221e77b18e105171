"""``whymatch bundle``: a bundle of somebody's own ONNX files, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from export.bundling import check_embedding as checking
from export.bundling import preprocessing_settings as settling
from export.bundling import preprocessor_config as configs
from export.bundling.build import build
from export.bundling.prefix import Activation
from export.bundling.preprocessing import Channels
from export.graphs.network_file import Layout, load
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Interpolation, ResizeMode
from transforms.core.similarity import SimilarityFunction
from transforms.serving.bundle import Bundle


def bundle_command(
    *,
    similarity_onnx: str | Path,
    out: str | Path,
    attributes_onnx: str | Path | None = None,
    input: str | None = None,
    output: str | None = None,
    layout: Layout | None = None,
    channels: Channels | None = None,
    scale: float | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    size: tuple[int, int] | None = None,
    resize: ResizeMode | None = None,
    interpolation: Interpolation | None = None,
    shorter: int | None = None,
    preprocessor_config: str | Path | None = None,
    similarity_function: SimilarityFunction = "cosine",
    vocabulary: Sequence[str] | str | Path | None = None,
    attributes_input: str | None = None,
    scores_output: str | None = None,
    maps_output: str | None = None,
    activation: Activation = "none",
    check: tuple[str | Path, str | Path] | None = None,
    tolerance: float = checking.TOLERANCE,
    echo: Callable[[str], object] = print,
) -> Bundle:
    """Bundles ``similarity_onnx``, and ``attributes_onnx`` if there is one, in the new folder ``out``.

    What stands in front of the network comes from the arguments, then from the network's declared input shape, then
    from ``preprocessor_config`` (None: the file of that name beside the network, if there is one); it is never guessed,
    and what was used is shown through ``echo``. The attribute network takes the same, in its own layout.

    Args:
      vocabulary: the attributes' names in the order of the network's scores, or a file with one name a line.
      check: an image and an .npy file with the embedding that the user's own pipeline gives it; a largest difference
        above ``tolerance``, at length 1, is an error, and then nothing is written.

    Raises:
      UsageError: a setting is missing or contradicts the network, or the check fails; the message says what to do.
      BundleError: a network cannot serve.
    """
    flags = {
        "layout": layout,
        "channels": channels,
        "scale": scale,
        "mean": mean,
        "std": std,
        "size": size,
        "resize": resize,
        "interpolation": interpolation,
        "shorter": shorter,
    }
    config = _config(similarity_onnx, preprocessor_config)
    settings = settling.settle_preprocessing(load(similarity_onnx).model, input, flags, config)
    echo(f"{similarity_onnx}: what stands in front of it")
    for line in settings.lines():
        echo(line)

    def verify(bundle: Bundle, folder: Path) -> None:
        if check is not None:
            found = checking.check(
                bundle,
                folder,
                network=similarity_onnx,
                preprocessing=settings.preprocessing,
                input=input,
                output=output,
                image=check[0],
                embedding=check[1],
                tolerance=tolerance,
            )
            echo(f"check: {check[0]} as in {check[1]} ({found})")

    names = _vocabulary(vocabulary)
    attributes_preprocessing = None
    if attributes_onnx is not None:
        own = settling.declared(load(attributes_onnx).model, attributes_input).get("layout")
        attributes_preprocessing = settling.with_layout(settings.preprocessing, own)
    made = build(
        out,
        similarity=similarity_onnx,
        similarity_preprocessing=settings.preprocessing,
        resize=settings.resize,
        input=input,
        output=output,
        similarity_function=similarity_function,
        attributes=attributes_onnx,
        attributes_preprocessing=attributes_preprocessing,
        attributes_input=attributes_input,
        scores_output=scores_output,
        maps_output=maps_output,
        activation=activation,
        vocabulary=names,
        verify=verify,
    )
    for line in _summary(made):
        echo(line)
    echo(f"{out}: a bundle, model {made.model_id}")
    return made


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
