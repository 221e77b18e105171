"""Concept priors of a bundle's similarity, found on a catalogue: ``whymatch priors``. Needs scikit-learn, no torch.

    training products with and without an attribute ─ trunk ─► activations, averaged over positions ─► concept vectors
    held-out pairs ─ trunk ─► a query's activations, moved along each vector ─ tail ─► how the similarity changes

The method and its sources are in ``transforms.core.attributes.concepts``, the cut of the network in
``export.graphs.cut``. Everything is asked of the bundle's own ONNX graph, so users' own networks have priors too.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from itertools import chain
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from export.graphs.cut import Cut, cut, run_tail, run_trunk, whole
from export.graphs.network_file import Layout, load
from export.training.splits import with_splits
from transforms import storage
from transforms.core.attributes import concepts, neighbours
from transforms.core.attributes.concepts import SettledPriors
from transforms.core.attributes.ranking import IDENTITY
from transforms.core.errors import (
    AmbiguousProduct,
    BundleError,
    DuplicatePair,
    MissingDependency,
    NonFiniteEmbedding,
    PairError,
    UnknownCondition,
    UnknownProduct,
    UsageError,
)
from transforms.core.imaging.images import ImageLimits, require_safe_decoder
from transforms.core.memory import DEFAULT_BATCH
from transforms.core.progress_lines import ProgressLines, of_total
from transforms.core.records import Failure, Float32, Float64, Image, Pair, Product, content_id
from transforms.inputs import catalogue as catalogues
from transforms.inputs import manifest
from transforms.serving import bundle as bundles
from transforms.serving import runtime
from transforms.serving.bundle import Bundle
from transforms.serving.load_image import ImageLoader
from transforms.serving.runtime import Device, resolve_device
from transforms.storage.addresses import is_local

Among = Literal["all", "having"]
Echo = Callable[[str], None]

_NONE: Mapping[str, str] = MappingProxyType({})
_FEWEST_PAIRS = 10
_TRAINS = "pairs of a product that trains"
_SHOWN = 5  # attributes at either end of the table
_SECONDS = 10.0  # between two lines of progress


@dataclass(frozen=True)
class PriorSettings:
    """How priors are found; UsageError for what cannot be.

    Attributes:
      layer: the name of a value of the similarity graph; None for the last feature map.
      counter_sets: concept vectors of an attribute, each against another random counter-set.
      random_concepts: vectors of random products against random others. They are the other side of every test, so that
        a few more of them cost little and spare all attributes the chance of a few.
      set_size: examples on each side of a concept vector, at most.
      min_count: of each side, at least; an attribute with fewer has no prior of its own.
      alpha: level of the tests of all attributes together.
      step: share of the activations' length by which they are moved.
      among: which pairs an attribute's score counts, "all" as in the paper, or those whose query has the
        attribute, "having": what would become of other matches, had they the attribute, says little of this one.
      queries: of the pairs, at most. top_k: references of each, where the pairs are the model's recommendations.
      seed: of every draw.
    """

    layer: str | None = None
    counter_sets: int = 10
    random_concepts: int = 30
    set_size: int = 100
    min_count: int = 10
    alpha: float = 0.05
    step: float = concepts.STEP
    among: Among = "having"
    queries: int = 200
    top_k: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"counter_sets": 2, "random_concepts": 2, "min_count": 3, "queries": 1, "top_k": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {value}, not {getattr(self, name)}")
        if self.set_size < self.min_count:
            raise UsageError(f"--set-size {self.set_size} is less than --min-count {self.min_count}")
        for name in ("alpha", "step"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"--{name} is a share between 0 and 1, not {getattr(self, name)}")
        if self.among not in ("all", "having"):
            raise UsageError(f"--among is all or having, not {self.among}")


@dataclass(frozen=True)
class Tested:
    """What was found of one attribute; ``untested`` says why it has no score.

    ``score`` and ``spread`` are mean and standard deviation of its TCAV scores, one for each counter-set; ``p_value``
    is that of the test against random concepts. ``positives`` counts training products with the attribute, ``pairs``
    those that its score counts. ``accuracy`` is the mean of its concept vectors' (:func:`concept_vector`).
    """

    score: float | None = None
    spread: float | None = None
    p_value: float | None = None
    significant: bool = False
    positives: int = 0
    pairs: int = 0
    accuracy: float | None = None
    untested: str | None = None


def priors_command(
    *,
    bundle: Path,
    catalogue: str,
    settings: PriorSettings | None = None,
    pairs: str | None = None,
    columns: Mapping[str, str] = _NONE,
    image_roots: Sequence[str] = (),
    allow_http: bool = False,
    device: Device = "cpu",
    threads: int = 1,
    batch: int | None = None,
    echo: Echo = print,
) -> Bundle:
    """Finds the priors of the attributes of ``bundle``, a local folder, and writes them into its bundle.json.

    Args:
      catalogue: products with attributes. Those of the training split are the concepts' examples; splits are those of a
        training (:func:`with_splits`).
      pairs: a manifest of held-out pairs, or a pattern of several; None for what the model itself recommends within the
        valid split. A bundle whose similarity has conditions needs one. Pairs of products that train are left out.
      columns: of the manifest, as in ``transforms.inputs.manifest``.
      image_roots: local folders that images may lie in, besides those of the catalogue and the manifest.
      batch: forward passes at once, 16 on a CPU and 256 on a GPU by default.

    Raises:
      UsageError: the bundle has no attributes, or the catalogue or the pairs do not suffice; the bundle is as it was.
      BundleError: the network cannot be cut at the layer.
      MissingDependency: scikit-learn is not installed.
    """
    settings = settings or PriorSettings()
    _logistic_regression()
    require_safe_decoder()
    described = bundles.read(str(bundle))
    if not described.vocabulary:
        raise UsageError(f"{bundle} has no attributes, so there is nothing to find priors of")
    if described.conditions and pairs is None:
        raise UsageError(
            f"the bundle has conditions, such as {next(iter(described.conditions))!r}, under one of which products are "
            "compared: give --pairs, such as `whymatch pairs --split valid --condition` writes"
        )
    left_out: Counter[str] = Counter()
    everyone = _products(catalogue, described.vocabulary, left_out)
    products = with_splits(everyone)
    if others := len(everyone) - len(products):
        left_out["of another split"] = others
    files = [] if pairs is None else storage.expand(pairs)
    access = storage.Access(roots=_roots(image_roots, [catalogue, *files]), allow_http=allow_http)
    network = _open(bundle, described, settings, access, resolve_device(device), threads, batch)
    at = network.cut
    echo(f"layer {at.layer!r}: {at.channels:,} channels, {at.positions:,} positions")
    known: dict[str, _Seen] = {}
    if files:
        trained = {product.id for product in products if product.split == "train"}
        held_out = _listed(files, columns, everyone, trained, described, settings, left_out)
    else:
        held_out, known = _recommended(products, described, network, settings, left_out, echo)
    with threadpool_limits(limits=1, user_api="blas"):
        train = [product for product in products if product.split == "train"]
        learned = _learn(train, described.vocabulary, network, settings, left_out, echo)
    held_out, positive = _positive(held_out, known, learned.vectors, described, network, settings, left_out, echo)
    names = described.vocabulary
    tested, settled = _settle(
        [_test(place, name, learned, held_out, positive, settings) for place, name in enumerate(names)], settings
    )
    if left_out:
        echo("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common()))
    of = ", ".join(map(_file_name, files)) or f"the {settings.top_k} most similar within the valid split"
    record = {
        **asdict(settings),
        "layer": at.layer,
        "catalogue": _file_name(catalogue),
        "pairs": {"of": of, "queries": len({pair.query for pair in held_out}), "pairs": len(held_out)},
        "left_out": dict(left_out),
        **_found(names, learned, positive, tested, settled),
        "versions": {"scikit-learn": metadata.version("scikit-learn")},
    }
    made = _write(bundle, described, settled.priors, record, echo)
    for line in _table(names, tested, settled):
        echo(line)
    echo(f"{bundle / bundles.MANIFEST}: priors of {len(names)} attributes")
    return made


def concept_vector(positives: Float64, negatives: Float64) -> tuple[Float64, float]:
    """The vector of a concept from examples [n, C] and counter-examples [m, C], and its classifier's accuracy.

    The normal of a logistic regression's boundary, float64 [C] of unit length, on the examples' side. Activations are
    centred and scaled to a mean square of 1, so that the penalty (C = 1) means the same at every layer. Kim et al. use
    a linear support vector machine by stochastic gradient descent; this one finds the same vector in every run, and
    vectors for different counter-sets lie closer at the same accuracy. The accuracy is that of a regression on the
    others for the last of every three rows of each side.

    Raises BundleError where the two sides cannot be told apart at all.
    """
    regression = _logistic_regression()
    samples = np.concatenate([positives, negatives])
    labels = np.arange(len(samples)) < len(positives)
    samples = samples - samples.mean(axis=0)
    spread = np.sqrt(np.square(samples).sum(axis=1).mean())
    if spread > 0:
        samples /= spread
    held_out = np.concatenate([np.arange(len(side)) % 3 == 2 for side in (positives, negatives)])
    partly = regression(max_iter=1000).fit(samples[~held_out], labels[~held_out])
    normal = regression(max_iter=1000).fit(samples, labels).coef_[0]
    length = float(np.linalg.norm(normal))
    if not length:
        raise BundleError("the layer's activations are the same for products with and without an attribute")
    return normal / length, float(np.mean(partly.predict(samples[held_out]) == labels[held_out]))


# The network in two parts


@dataclass(frozen=True, eq=False)
class _Seen:
    """One image: the sha256 of its bytes, its embedding [D], and the layer's values of it."""

    sha256: str
    embedding: Float32
    values: Float32


@dataclass(frozen=True, eq=False)
class _Network:
    """The two parts of a cut network in open sessions, and what loads the images that go in."""

    cut: Cut
    trunk: Any
    tail: Any
    load: ImageLoader
    batch: int

    def look(
        self, addresses: Iterable[str], doing: str, left_out: Counter[str], echo: Echo
    ) -> Iterator[tuple[str, _Seen]]:
        """Every distinct image of ``addresses`` that can be used; the others are counted by reason.

        Images are held for one batch only. Batches are always full: a row's last bits may depend on their size.
        """
        distinct = list(dict.fromkeys(addresses))
        progress = _progress(doing, "images", len(distinct), echo)
        for start in range(0, len(distinct), self.batch):
            some = distinct[start : start + self.batch]
            loaded: dict[str, tuple[str, Image]] = {}
            for address in some:
                try:
                    image = self.load(address)
                except PairError as error:
                    left_out[error.reason] += 1
                else:
                    loaded[address] = (image.sha256, image.pixels)
            if loaded:
                pixels = np.stack([one for _, one in loaded.values()])
                results = zip(*run_trunk(self.trunk, self.cut, pixels, self.batch), strict=True)
                for (address, (sha256, _)), (embedding, values) in zip(loaded.items(), results, strict=True):
                    if np.isfinite(embedding).all() and np.isfinite(values).all():
                        yield address, _Seen(sha256, embedding, values)
                    else:
                        left_out[NonFiniteEmbedding.reason] += 1
            progress.add(len(some))

    def embed(self, values: Float32) -> Float32:
        """The tail: embeddings [B, D] of the layer's ``values`` [B, ...]."""
        return run_tail(self.tail, self.cut, values)


def _open(
    folder: Path,
    bundle: Bundle,
    settings: PriorSettings,
    access: storage.Access,
    device: Literal["cpu", "cuda"],
    threads: int,
    batch: int | None,
) -> _Network:
    with tempfile.TemporaryDirectory(prefix="whymatch-bundle-") as name:
        private = Path(name)
        bundles.fetch(str(folder), private)
        graph = whole(private / bundle.similarity.file)
        features = None if bundle.projection is None else _features_layout(private / bundle.projection.file)

    def opened(model: onnx.ModelProto) -> Any:
        return runtime.session(model.SerializeToString(), device, threads)

    made = cut(
        graph, bundle.similarity, bundle.resize.size, layer=settings.layer, features=features, open_session=opened
    )
    loader = ImageLoader(access, ImageLimits(), bundle.resize)
    rows = bundle.similarity.batch or batch or DEFAULT_BATCH[device]
    return _Network(made, opened(made.trunk), opened(made.tail), loader, rows)


def _features_layout(projection: Path) -> Layout:
    """The layout of the output "features": a projection of channels last begins with a Transpose."""
    return "nhwc" if any(node.op_type == "Transpose" for node in load(projection).model.graph.node) else "nchw"


def _progress(doing: str, what: str, total: int, echo: Echo) -> ProgressLines:
    """How much there is to do, and a line every few seconds of how much is done and how long the rest will take."""
    echo(f"{doing}: {total:,} {what}")
    return ProgressLines(
        total,
        lambda advance: f"  {of_total(advance, what)}, {advance.left:,.0f} s to go",
        echo,
        _SECONDS,
        by_tenths=False,
    )


# What the catalogue and the manifest say


def _products(address: str, vocabulary: Sequence[str], left_out: Counter[str]) -> list[Product]:
    """The products with an id of their own, in the order of their ids."""
    products: list[Product] = []
    for row in catalogues.read(address, columns=tuple(dict.fromkeys(map(_column, vocabulary)))):
        if isinstance(row, Failure):
            left_out[row.reason] += 1
        else:
            products.append(row)
    rows = Counter(product.id for product in products)
    single = sorted((product for product in products if rows[product.id] == 1), key=lambda product: product.id)
    if twice := len(products) - len(single):
        left_out[AmbiguousProduct.reason] = twice
    return single


def _column(name: str) -> str:
    return name.partition("=")[0]


def _roots(given: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    return (*given, *(storage.resolve("", file) for file in files if is_local(file)))


def _file_name(address: str) -> str:
    return PurePosixPath(storage.shown(address)).name


@dataclass(frozen=True)
class _HeldOut:
    """A pair by the addresses of its images. ``attributes`` are the query's, empty where no catalogue speaks of it."""

    query_id: str
    query: str
    reference: str
    condition: str | None = None
    attributes: tuple[str, ...] = ()


def _first(ids: Iterable[str], count: int, seed: int) -> set[str]:
    """Those ``count`` ids with the smallest hash of ``seed`` and id, as ``whymatch pairs --queries`` draws them."""
    return set(sorted(set(ids), key=lambda one: content_id(str(seed), one, letter="s", digits=64))[:count])


def _listed(
    files: Sequence[str],
    columns: Mapping[str, str],
    products: Sequence[Product],
    trained: Collection[str],
    bundle: Bundle,
    settings: PriorSettings,
    left_out: Counter[str],
) -> list[_HeldOut]:
    """The pairs of manifests, of at most as many queries as the settings say.

    Pairs with a product of ``trained``, ids, by its id or by the address of its image, are left out: the network was
    made to find them similar, so they say little of what it follows elsewhere. UsageError where no pair is left.
    """
    by_id = {product.id: product for product in products}
    images = {by_id[one].image for one in trained}
    rows: dict[str, Pair] = {}
    for file in files:
        manifest.check_header(file, columns=columns, has_catalogue=True)
        for row in manifest.read(file, columns=columns):
            if isinstance(row, Failure):
                left_out[row.reason] += 1
            elif not _compared(row, bundle):
                left_out[UnknownCondition.reason] += 1
            elif not all(
                given or one in by_id for given, one in ((row.query, row.query_id), (row.reference, row.reference_id))
            ):
                left_out[UnknownProduct.reason] += 1
            elif not {row.query_id, row.reference_id}.isdisjoint(trained) or not {row.query, row.reference}.isdisjoint(
                images
            ):
                left_out[_TRAINS] += 1
            else:
                other = rows.setdefault(row.pair_id, row)
                if other is not row:
                    left_out[DuplicatePair.reason] += 1
                    rows[row.pair_id] = min(row, other, key=manifest.canonical)
    if not rows:
        raise UsageError(
            f"{', '.join(map(_file_name, files))}: no held-out pair is left: {_counted(left_out)}. Give pairs of "
            "products that the network was not trained on, such as `whymatch pairs --split valid` writes"
        )
    asked = _first((row.query_id for row in rows.values()), settings.queries, settings.seed)
    pairs = []
    for row in sorted(rows.values(), key=manifest.canonical):
        if row.query_id in asked:
            query = by_id.get(row.query_id)
            pairs.append(
                _HeldOut(
                    row.query_id,
                    row.query or by_id[row.query_id].image,
                    row.reference or by_id[row.reference_id].image,
                    row.condition,
                    query.names() if query else (),
                )
            )
    return pairs


def _compared(pair: Pair, bundle: Bundle) -> bool:
    """Whether the bundle can compare the pair: under one of its conditions where it has any, else under none."""
    return pair.condition in bundle.conditions if bundle.conditions else pair.condition is None


def _recommended(
    products: Sequence[Product],
    bundle: Bundle,
    network: _Network,
    settings: PriorSettings,
    left_out: Counter[str],
    echo: Echo,
) -> tuple[list[_HeldOut], dict[str, _Seen]]:
    """What the model recommends within the valid split; and its images, without the layer's values."""
    valid = [product for product in products if product.split == "valid"]
    nothing = np.zeros(0, np.float32)
    seen = {
        address: replace(one, values=nothing)
        for address, one in network.look(
            (product.image for product in valid), "embedding the valid split", left_out, echo
        )
    }
    usable = [product for product in valid if product.image in seen]
    if len(usable) < 2:
        raise UsageError(
            f"the catalogue has {len(usable)} usable products of split valid; the model recommends within them, and a "
            "pair needs two. Give --pairs, a manifest of pairs that the network was not trained on."
        )
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(seen[product.image].sha256, len(numbers)) for product in usable]
    asked = _first((product.id for product in usable), settings.queries, settings.seed)
    pairs = []
    for found in neighbours.top_k(
        np.stack([seen[product.image].embedding for product in usable]),
        settings.top_k,
        function=bundle.similarity_function,
        groups=np.array(groups),
        queries=np.array([at for at, product in enumerate(usable) if product.id in asked], np.intp),
    ):
        query = usable[found.query]
        pairs += [_HeldOut(query.id, query.image, usable[at].image, None, query.names()) for at in found.indices]
    return pairs, seen


# Concept vectors


@dataclass(frozen=True, eq=False)
class _Learned:
    """The concept vectors of all attributes that have some, then the random ones.

    ``rows`` are those of each such attribute by its place in the vocabulary; ``lacking`` says why others have none.
    """

    vectors: Float64  # [V, C]
    accuracy: Float64  # [V]
    rows: Mapping[int, slice]
    random: slice
    positives: Sequence[int]  # [A], the training products with each attribute
    lacking: Mapping[int, str]


def _learn(
    products: Sequence[Product],
    vocabulary: Sequence[str],
    network: _Network,
    settings: PriorSettings,
    left_out: Counter[str],
    echo: Echo,
) -> _Learned:
    """The concept vectors of ``vocabulary`` and of random concepts, from training ``products``."""
    drawn, positives, lacking = _draw(products, vocabulary, settings)
    if not drawn:
        raise UsageError(
            f"no attribute of the vocabulary has {settings.min_count} training products with it and as many without: "
            "give the catalogue that the attribute network was trained on, or lower --min-count"
        )
    chance = concepts.random_sets(
        np.arange(len(products), dtype=np.intp),
        sets=settings.random_concepts,
        size=settings.set_size,
        rng=concepts.generator(settings.seed, "random"),
    )
    wanted = {int(at) for sets in (*drawn.values(), chance) for side in chain.from_iterable(sets) for at in side}
    addresses = [products[at].image for at in sorted(wanted)]
    seen = {
        address: concepts.pooled(one.values[None], network.cut.axis)[0]
        for address, one in network.look(addresses, "activations of training products", left_out, echo)
    }
    progress = _progress("concept vectors", "concepts", len(drawn) + 1, echo)
    fitted: list[tuple[Float64, float]] = []

    def fit(sets: concepts.Sets) -> slice | None:
        """Adds a vector for each of ``sets`` to ``fitted``; None where too few of their images could be used."""
        sides = [
            [[seen[products[at].image] for at in side if products[at].image in seen] for side in pair] for pair in sets
        ]
        progress.add(1)
        if min(len(side) for pair in sides for side in pair) < settings.min_count:
            return None
        fitted.extend(concept_vector(np.stack(ours), np.stack(others)) for ours, others in sides)
        return slice(len(fitted) - len(sides), len(fitted))

    rows = {}
    for place, sets in drawn.items():
        if (found := fit(sets)) is None:
            lacking[place] = f"fewer than {settings.min_count} usable images on a side of its sets"
        else:
            rows[place] = found
    random = fit(chance)
    if random is None or not rows:
        raise UsageError(f"too few images of training products can be used: {_counted(left_out)}")
    vectors = np.stack([vector for vector, _ in fitted])
    return _Learned(vectors, np.array([accuracy for _, accuracy in fitted]), rows, random, positives, lacking)


def _draw(
    products: Sequence[Product], vocabulary: Sequence[str], settings: PriorSettings
) -> tuple[dict[int, concepts.Sets], list[int], dict[int, str]]:
    """The sets of each attribute by its place, how many products have it [A], and why others have no sets.

    A product whose cell is empty says nothing of its column's values: it is no counter-example of them.
    """
    names = [set(product.names()) for product in products]
    filled = [{column for column, _ in product.attributes} for product in products]
    drawn, positives, lacking = dict[int, concepts.Sets](), list[int](), dict[int, str]()
    for place, name in enumerate(vocabulary):
        has = np.array([name in own for own in names], np.bool_)
        known = np.array([_column(name) in columns for columns in filled], np.bool_)
        ours, others = np.flatnonzero(has), np.flatnonzero(known & ~has)
        positives.append(len(ours))
        if min(len(ours), len(others)) < settings.min_count:
            lacking[place] = f"{len(ours)} training products have it and {len(others)} do not"
            continue
        rng = concepts.generator(settings.seed, "concept", name)
        drawn[place] = concepts.concept_sets(ours, others, sets=settings.counter_sets, size=settings.set_size, rng=rng)
    return drawn, positives, lacking


def _logistic_regression() -> Any:
    """scikit-learn's class, imported when it is first needed: nothing else asks for the package."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingDependency(
            "concept vectors are found with scikit-learn, which is not installed. Run: pip install 'whymatch[priors]'"
        ) from error
    return LogisticRegression


# How the similarity of held-out pairs follows them


def _positive(
    pairs: Sequence[_HeldOut],
    known: Mapping[str, _Seen],
    vectors: Float64,
    bundle: Bundle,
    network: _Network,
    settings: PriorSettings,
    left_out: Counter[str],
    echo: Echo,
) -> tuple[list[_HeldOut], NDArray[np.bool_]]:
    """The pairs that can be used, and whether the similarity of each rises along each vector: [V, P].

    ``known`` has images that were seen before. A pair of one image with itself is left out: its similarity is at its
    peak, so that only rounding would decide.
    """
    others = [pair.reference for pair in pairs if pair.reference not in known]
    references = dict(known)
    if others:
        nothing = np.zeros(0, np.float32)
        for address, one in network.look(others, "embedding references", left_out, echo):
            references[address] = replace(one, values=nothing)
    by_query: dict[str, list[_HeldOut]] = {}
    for pair in pairs:
        by_query.setdefault(pair.query, []).append(pair)
    kept: list[_HeldOut] = []
    columns: list[NDArray[np.bool_]] = []
    axis = network.cut.axis - 1
    doing = f"moving queries along {len(vectors):,} vectors, both ways"
    for address, query in network.look(by_query, doing, Counter() if known else left_out, echo):
        usable = [
            pair
            for pair in by_query[address]
            if pair.reference in references and references[pair.reference].sha256 != query.sha256
        ]
        if not usable:
            continue
        moved = concepts.move(
            network.embed, query.values, vectors, axis=axis, share=settings.step, rows=network.cut.rows
        )
        for condition in dict.fromkeys(pair.condition for pair in usable):
            alike = [pair for pair in usable if pair.condition == condition]
            embeddings = np.stack([references[pair.reference].embedding for pair in alike])
            mask = None if condition is None else bundle.conditions[condition]
            columns.append(moved.derivatives(embeddings, bundle.similarity_function, mask) > 0)
            kept += alike
    if len(kept) < len(pairs):
        left_out["pairs without two usable images that differ"] += len(pairs) - len(kept)
    if len(kept) < _FEWEST_PAIRS:
        raise UsageError(
            f"{len(kept)} pairs can be used, and shares of fewer than {_FEWEST_PAIRS} say little: {_counted(left_out)}"
        )
    return kept, np.concatenate(columns, axis=1)


def _test(
    place: int,
    name: str,
    learned: _Learned,
    pairs: Sequence[_HeldOut],
    positive: NDArray[np.bool_],
    settings: PriorSettings,
) -> Tested:
    """What the pairs say of one attribute."""
    counted = np.array([settings.among == "all" or name in pair.attributes for pair in pairs], np.bool_)
    count, positives = int(counted.sum()), learned.positives[place]
    rows = learned.rows.get(place)
    if rows is None:
        return Tested(positives=positives, pairs=count, untested=learned.lacking[place])
    accuracy = float(learned.accuracy[rows].mean())
    if count < _FEWEST_PAIRS:
        why = f"{count} pairs have a query with it"
        return Tested(positives=positives, pairs=count, accuracy=accuracy, untested=why)
    scores, chance = (concepts.tcav_scores(positive[some], counted) for some in (rows, learned.random))
    p_value = concepts.welch(scores, chance)
    return Tested(float(scores.mean()), float(scores.std(ddof=1)), p_value, False, positives, count, accuracy)


def _settle(tested: Sequence[Tested], settings: PriorSettings) -> tuple[list[Tested], SettledPriors]:
    """The priors, and ``tested`` with what is significant."""
    scores, p_values = (
        np.array([np.nan if value is None else value for value in values])
        for values in zip(*((one.score, one.p_value) for one in tested), strict=True)
    )
    if np.isnan(scores).all():
        raise UsageError(f"no attribute can be tested; of the first one {tested[0].untested}")
    settled = concepts.settle_priors(scores, p_values, settings.alpha)
    return [replace(one, significant=bool(yes)) for one, yes in zip(tested, settled.significant, strict=True)], settled


# What is left of it


def _found(
    names: Sequence[str],
    learned: _Learned,
    positive: NDArray[np.bool_],
    tested: Sequence[Tested],
    settled: SettledPriors,
) -> dict[str, Any]:
    """What the record says of the findings, JSON values only."""
    chance = concepts.tcav_scores(positive[learned.random])
    return {
        "tested": sum(one.untested is None for one in tested),
        "significant": int(settled.significant.sum()),
        "replacement": {"mean_of": "all" if settled.every else "significant", "value": settled.replacement},
        "random": {
            "score": float(chance.mean()),
            "spread": float(chance.std(ddof=1)),
            "accuracy": float(learned.accuracy[learned.random].mean()),
        },
        "attributes": {name: asdict(one) for name, one in zip(names, tested, strict=True)},
    }


def _write(bundle: Path, described: Bundle, priors: Float64, record: Mapping[str, Any], echo: Echo) -> Bundle:
    """Replaces the priors in bundle.json as it is now: what else was written there meanwhile stays."""
    now = bundles.read(str(bundle))
    if (now.model_id, now.vocabulary) != (described.model_id, described.vocabulary):
        raise UsageError(f"{bundle} has become another bundle meanwhile; nothing was written")
    made = replace(now, priors=tuple(priors.tolist()), concepts=record)
    if now.phi[2] or now.scales.prior != IDENTITY:
        echo("the bundle's ranking was calibrated with other priors: run `whymatch calibrate` again")
    bundles.rewrite(made, bundle)
    return made


def _table(vocabulary: Sequence[str], tested: Sequence[Tested], settled: SettledPriors) -> Iterator[str]:
    """The strongest and the weakest significant attributes, and how many there are."""
    rows = sorted(
        ((one.score or 0.0, name, one) for name, one in zip(vocabulary, tested, strict=True) if one.significant),
        key=lambda row: (-row[0], row[1]),
    )
    shown = rows if len(rows) <= 2 * _SHOWN else [*rows[:_SHOWN], None, *rows[-_SHOWN:]]
    width = max([len("attribute"), *(len(row[1]) for row in shown if row)])
    if rows:
        yield f"{'attribute':<{width}}  {'prior':>6}  {'p':>8}  {'accuracy':>8}  {'products':>8}"
    for row in shown:
        if row is None:
            yield f"... {len(rows) - 2 * _SHOWN} more"
            continue
        score, name, one = row
        figures = f"{score:>6.3f}  {one.p_value or 0:>8.1g}  {one.accuracy or 0:>8.2f}  {one.positives:>8,}"
        yield f"{name:<{width}}  {figures}"
    mean = "all, which rank nothing then" if settled.every else "these"
    untested = sum(one.untested is not None for one in tested)
    yield (
        f"{len(rows)} of {len(tested)} attributes are significant, {untested} could not be tested; the prior of the "
        f"others is the mean of {mean}, {settled.replacement:.3f}"
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items())) or "nothing was left out"
