"""``bundle.json``: what a model bundle holds, written once and verified whenever it is read.

A bundle is a folder of ``bundle.json`` and ONNX files, all that a worker needs:

    similarity.onnx   image uint8 [I,H,W,3], mask float32 [M,H,W,1], fill float32 [1,h,w,3] in pixel units
                      -> embedding float32 [max(I,M), D]; I and M broadcast, fill is a colour (h = w = 1) or an image;
                      and features, the last feature map, where a projection goes with it
    attributes.onnx   image uint8 [I,H,W,3] -> scores float32 [I,A] in [0, 1], maps float32 [I,A,h,w]; optional
    gradient.onnx     image uint8 [I,H,W,3], mask float32 [B,H,W], fill float32 [F,h,w,3], noise float32 [1,.,.,3] in
                      units of the normalised input, reference float32 [B,D] -> similarity float32 [B], its gradient
                      with respect to the mask float32 [B,H,W], embedding float32 [B,D]; I and F are 1 or B; optional.
                      Where the bundle has conditions also condition float32 [1,D], ones where it is not given, by which
                      the embedding is multiplied; the reference is given as the condition compares it
    projection.onnx   features as the similarity graph gives them -> local float32 [I,D,h,w], bias float32 [1,D] with
                      sum of local over positions + bias = embedding before the L2 norm; optional

Everything after the resize (cast, perturb, normalise, channel order, layout, network, L2 norm) is in the graph. The
resize itself is done on the CPU by ``transforms.core.imaging.images.resize``, for which ``resize`` holds the settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from transforms import storage
from transforms.core.attributes.ranking import Phi, Ranking, Scale, Scales, all_finite
from transforms.core.errors import BundleError, UsageError
from transforms.core.imaging.images import Resize
from transforms.core.records import content_id
from transforms.core.similarity import SimilarityFunction

FORMAT = 1
MANIFEST = "bundle.json"

_BEFORE = dict.fromkeys(
    ("gradient", "projection"), "the bundle was made by a version of whymatch that wrote none: make it again"
)


@dataclass(frozen=True)
class Network:
    """One ONNX graph of a bundle.

    ``batch`` is the only batch size that the graph accepts, or None for any. ``files`` maps every file of the graph
    (the ONNX file first, then its external data) to the sha256 of its content. ``preprocessing`` is a record of what
    was put in front of the network: layout, channel order, scale, mean and standard deviation. ``parity`` is the
    largest absolute difference from the framework that the network came from (of a gradient the median relative one),
    None where there was none to compare. ``batch_invariant`` is False where ONNX Runtime gives a row other last bits in
    another batch: such a network is run in full batches only.
    """

    files: Mapping[str, str]
    batch: int | None = None
    precision: Literal["float32", "float16"] = "float32"
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    parity: float | None = None
    batch_invariant: bool = True

    @property
    def file(self) -> str:
        """The name of the ONNX file."""
        return next(iter(self.files))


@dataclass(frozen=True)
class Bundle:
    """The content of ``bundle.json``.

    ``fill_mean`` is the normalisation's mean as an RGB colour in pixel units, 0 to 255. ``embedding_size`` is D.
    ``similarity_function`` says how embeddings compare: "cosine" (the graph ends in the L2 norm), "dot", or
    "euclidean" (the negative distance). ``missing`` says why there is no "gradient" or no "projection".
    ``vocabulary`` names the A attributes as ``column=value``; ``priors`` are their
    p_a, or None, and ``concepts`` the record of how they were found. ``phi`` weighs confidence, map match and prior in
    the ranking, each on the scale that ``scales`` says. ``conditions`` maps the name of each condition to its mask [D],
    by which embeddings are multiplied before they are compared; empty for a similarity of one kind. ``training`` and
    ``versions`` are records.
    """

    similarity: Network
    resize: Resize
    embedding_size: int
    fill_mean: tuple[float, float, float]
    similarity_function: SimilarityFunction = "cosine"
    attributes: Network | None = None
    gradient: Network | None = None
    projection: Network | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    priors: tuple[float, ...] | None = None
    concepts: Mapping[str, Any] = field(default_factory=dict)
    phi: Phi = (0.5, 0.5, 0.0)
    scales: Scales = field(default_factory=Scales)
    conditions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.attributes is None) != (not self.vocabulary):
            raise BundleError(
                f"a bundle has an attribute network and a vocabulary, or neither; this one has "
                f"{'no' if self.attributes is None else 'an'} attribute network and {len(self.vocabulary)} names"
            )
        if self.priors is not None and len(self.priors) != len(self.vocabulary):
            raise BundleError(f"{len(self.priors)} priors for {len(self.vocabulary)} attributes")
        try:
            _ = self.ranking
        except ValueError as error:
            raise BundleError(f"the bundle cannot rank attributes: {error}") from None
        for name, mask in self.conditions.items():
            if len(mask) != self.embedding_size or not all_finite(mask) or min(mask) < 0 or not any(mask):
                raise BundleError(
                    f"the mask of condition {name!r} must have {self.embedding_size} finite entries, one for each "
                    "dimension of the embedding, none below 0 and not all 0"
                )

    @cached_property
    def model_id(self) -> str:
        """Id of the similarity model: its files, the resize in front of them, similarity function and conditions."""
        conditions = [_canonical(self.conditions)] if self.conditions else []
        return content_id(
            _canonical(dict(self.similarity.files)),
            _canonical(asdict(self.resize)),
            self.similarity_function,
            *conditions,
            letter="m",
        )

    @cached_property
    def attribute_model_id(self) -> str | None:
        """Id of the attribute model: its files and the resize in front of them."""
        if self.attributes is None:
            return None
        return content_id(_canonical(dict(self.attributes.files)), _canonical(asdict(self.resize)), letter="a")

    @cached_property
    def vocabulary_id(self) -> str | None:
        """Id of the attribute names and their order."""
        return content_id(*self.vocabulary, letter="v") if self.vocabulary else None

    @cached_property
    def ranking_id(self) -> str | None:
        """Id of the ranking: phi, scales and priors, which decide what explains a match. None without attributes."""
        if self.attributes is None:
            return None
        priors = None if self.priors is None else [float(prior) for prior in self.priors]
        return content_id(_canonical({**self.ranking_record(), "priors": priors}), letter="r")

    def ranking_record(self) -> dict[str, Any]:
        """``phi`` and ``scales``, JSON values only."""
        scales = {
            part: {name: [float(value) for value in values] for name, values in scale.items()}
            for part, scale in asdict(self.scales).items()
        }
        return {"phi": [float(weight) for weight in self.phi], "scales": scales}

    @cached_property
    def ranking(self) -> Ranking:
        """How this bundle ranks attributes."""
        return Ranking(self.phi, self.scales, self.priors)


def write(bundle: Bundle, folder: Path) -> Path:
    """Writes ``bundle.json`` into ``folder``, beside the ONNX files it names, and returns its path."""
    for network in _networks(bundle):
        for name, expected in network.files.items():
            if (found := file_sha256(folder / name)) != expected:
                raise BundleError(f"{folder / name}: sha256 is {found}, the bundle says {expected}")
    content = {"format": FORMAT, **asdict(bundle)}
    path = folder / MANIFEST
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def rewrite(bundle: Bundle, folder: Path) -> None:
    """Replaces ``bundle.json`` in ``folder`` in one step: a reader finds the old one or the new one, never a part.

    BundleError, and the old one stays, where the files there are not those that ``bundle`` names.
    """
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{MANIFEST}-", dir=folder))
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        # links, so that the bundle is checked against its files where they are
        for path in folder.iterdir():
            if path.is_file() and path.name != MANIFEST:
                (staging / path.name).symlink_to(path.resolve())
        written = write(bundle, staging)
        with written.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(written, folder / MANIFEST)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read(address: str) -> Bundle:
    """Reads ``bundle.json`` of the bundle folder at ``address``; BundleError where it is not one."""
    where = storage.join(address, MANIFEST)
    try:
        content = json.loads(storage.read_file(where, max_bytes=64 * 2**20))
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a number of thousands of digits
        raise BundleError(f"{storage.redact(where)} is no JSON: {error}") from None
    return _parse(content, storage.redact(where))


def fetch(address: str, folder: Path) -> Bundle:
    """Copies a bundle's files into the private ``folder`` and verifies the sha256 of each.

    The copy is what is loaded: nobody can change it between the check and the load, and a declared external data file
    cannot be a link to anything else.
    """
    bundle = read(address)
    for network in _networks(bundle):
        for name, expected in network.files.items():
            data = storage.read_file(storage.join(address, name))
            found = hashlib.sha256(data).hexdigest()
            if found != expected:
                raise BundleError(
                    f"{storage.redact(storage.join(address, name))} is not the file that bundle.json describes: "
                    f"sha256 {found}, expected {expected}. Export the bundle again, or copy it again."
                )
            (folder / name).write_bytes(data)
    return bundle


def file_sha256(path: Path) -> str:
    """The sha256 of a local file, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _networks(bundle: Bundle) -> list[Network]:
    networks = (bundle.similarity, bundle.attributes, bundle.gradient, bundle.projection)
    return [network for network in networks if network is not None]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _parse(content: Any, where: str) -> Bundle:
    if not isinstance(content, dict) or "similarity" not in content:
        raise BundleError(f"{where} describes no bundle: it has no 'similarity'")
    if content.get("format") != FORMAT:
        raise BundleError(
            f"{where} has format {content.get('format')!r}; this version of whymatch reads format {FORMAT}. "
            "Export the bundle again."
        )
    try:
        resize = {**content["resize"], "size": tuple(content["resize"]["size"])}
        others = {key: content[key] for key in ("embedding_size", "similarity_function", "training", "versions")}
        return Bundle(
            similarity=_parse_network(content["similarity"]),
            attributes=_optional_network(content["attributes"]),
            gradient=_optional_network(content.get("gradient")),
            projection=_optional_network(content.get("projection")),
            missing=dict(content.get("missing", _BEFORE)),
            resize=Resize(**resize),
            fill_mean=tuple(content["fill_mean"]),
            vocabulary=tuple(content["vocabulary"]),
            priors=None if content["priors"] is None else _numbers(content["priors"], "priors"),
            concepts=_mapping(content.get("concepts", {}), "concepts"),
            phi=_phi(content["phi"]),
            scales=_scales(content.get("scales", {})),
            conditions={
                name: _numbers(mask, f"the mask of condition {name!r}")
                for name, mask in _mapping(content["conditions"] or {}, "conditions").items()
            },
            **others,
        )
    except BundleError as error:
        raise BundleError(f"{where}: {error}. Copy or export the bundle again, or mend its {MANIFEST}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{where} is not a complete bundle description: {error!r}") from None


def _phi(content: Any) -> Phi:
    """The weights; bundles of earlier versions have none for the prior."""
    weights = _numbers(content, "phi")
    if len(weights) not in (2, 3):
        raise BundleError(f"phi is the weights of confidence, map match and prior, got {len(weights)} numbers")
    first, second, third = [*weights, 0.0][:3]
    return first, second, third


def _scales(content: Any) -> Scales:
    parts = {part.name for part in fields(Scales)}
    scales = {}
    for part, scale in _mapping(content, "scales").items():
        if part not in parts or _mapping(scale, f"the scale {part!r}").keys() != {"values", "levels"}:
            raise BundleError(f"scales are of {', '.join(sorted(parts))}, each values and levels; {part!r} is no such")
        knots = (_numbers(scale[name], f"the {name} of the scale {part!r}") for name in ("values", "levels"))
        try:
            scales[part] = Scale(*knots)
        except ValueError as error:
            raise BundleError(f"the scale {part!r}: {error}") from None
    return Scales(**scales)


def _numbers(content: Any, what: str) -> tuple[float, ...]:
    if not isinstance(content, list) or not all_finite(content):
        raise BundleError(f"expected a list of finite numbers as {what}, got {_shown(content)}")
    return tuple(map(float, content))


def _mapping(content: Any, what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise BundleError(f"expected {what} as an object of names and their values, got {_shown(content)}")
    return content


def _shown(content: Any) -> str:
    text = json.dumps(content)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _optional_network(content: dict[str, Any] | None) -> Network | None:
    return None if content is None else _parse_network(content)


def _parse_network(content: dict[str, Any]) -> Network:
    network = Network(**content)
    for name in network.files:
        if not name or Path(name).name != name:
            raise BundleError(f"a bundle's files lie in its own folder; {name!r} does not")
    return network
