"""Concept priors of a bundle's similarity, found on a catalogue: ``whymatch priors``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from export.ranking.priors.concept_vectors import learn_concepts, logistic_regression
from export.ranking.priors.findings import findings, table
from export.ranking.priors.held_out import HeldOutPair, ManifestPairs, file_name, read_pairs, recommended_pairs
from export.ranking.priors.network import ImageValues, open_cut
from export.ranking.priors.settings import PriorSettings
from export.ranking.priors.testing import rising_pairs, run_test, settle
from export.ranking.products import read_products
from export.training.splits import with_splits
from transforms import storage
from transforms.core.attributes.names import column_of
from transforms.core.attributes.ranking import IDENTITY
from transforms.core.errors import UsageError
from transforms.core.imaging.images import require_safe_decoder
from transforms.core.messages import Echo
from transforms.core.records import Float64, Product
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.models import Serving
from transforms.storage.addresses import is_local


def priors_command(
    serving: Serving,
    catalogue: str,
    *,
    pairs: ManifestPairs | None = None,
    settings: PriorSettings | None = None,
    access: storage.Access | None = None,
    echo: Echo = print,
) -> Bundle:
    """Finds the priors of the attributes of a bundle, and writes them into its bundle.json.

    Args:
      serving: the bundle, a local folder, and how its network is run.
      catalogue: products with attributes. Those of the training split are the concepts' examples; splits are those of a
        training (:func:`with_splits`).
      pairs: held-out pairs; None for what the model itself recommends within the valid split. A bundle whose similarity
        has conditions needs some. Pairs of products that train are left out.
      access: what image addresses may name, besides the folders of the catalogue and the manifests.

    Raises:
      UsageError: the bundle has no attributes, or the catalogue or the pairs do not suffice; the bundle is as it was.
      BundleError: the network cannot be cut at the layer.
      MissingDependency: scikit-learn is not installed.
    """
    settings = settings or PriorSettings()
    logistic_regression()
    require_safe_decoder()
    described = _described(serving.bundle, pairs)
    left_out: Counter[str] = Counter()
    everyone, products = _read_catalogue(catalogue, described.vocabulary, left_out)
    train = [product for product in products if product.split == "train"]
    files = [] if pairs is None else storage.expand(pairs.address)
    network = open_cut(serving, described, settings.layer, _access(access, [catalogue, *files]))
    at = network.cut
    echo(f"layer {at.layer!r}: {at.channels:,} channels, {at.positions:,} positions")
    held_out: list[HeldOutPair]
    known: dict[str, ImageValues] = {}
    if pairs is not None:
        trained = {product.id for product in train}
        held_out = read_pairs(files, pairs.columns, everyone, trained, described, settings, left_out)
    else:
        held_out, known = recommended_pairs(products, described, network, settings, left_out, echo)
    with threadpool_limits(limits=1, user_api="blas"):
        learned = learn_concepts(train, described.vocabulary, network, settings, left_out, echo)
    held_out, rising = rising_pairs(held_out, known, learned.vectors, described, network, settings, left_out, echo)
    names = described.vocabulary
    tested, settled = settle(
        [run_test(place, name, learned, held_out, rising, settings) for place, name in enumerate(names)], settings
    )
    if left_out:
        echo("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common()))
    of = ", ".join(map(file_name, files)) or f"the {settings.top_k} most similar within the valid split"
    record = {
        **_asked(replace(settings, layer=at.layer), catalogue, of, held_out),
        "left_out": dict(left_out),
        **findings(names, learned, rising, tested, settled),
        "versions": {"scikit-learn": metadata.version("scikit-learn")},
    }
    made = _write(Path(serving.bundle), described, settled.priors, record, echo)
    for line in table(names, tested, settled):
        echo(line)
    echo(f"{Path(serving.bundle) / bundles.MANIFEST}: priors of {len(names)} attributes")
    return made


def _described(address: str, pairs: ManifestPairs | None) -> Bundle:
    """What the bundle says; UsageError where it has nothing to find priors of, or needs ``pairs`` for it."""
    described = bundles.read(address)
    if not described.vocabulary:
        raise UsageError(f"{address} has no attributes, so there is nothing to find priors of")
    if described.conditions and pairs is None:
        raise UsageError(
            f"the bundle has conditions, such as {next(iter(described.conditions))!r}, under one of which products are "
            "compared: give --pairs, such as `whymatch pairs --split valid --condition` writes"
        )
    return described


def _read_catalogue(
    address: str, vocabulary: Sequence[str], left_out: Counter[str]
) -> tuple[list[Product], list[Product]]:
    """The products with an id of their own, in the order of their ids; and those of a training, with their splits."""
    read = read_products(address, dict.fromkeys(map(column_of, vocabulary)), left_out)
    everyone = sorted(read, key=lambda product: product.id)
    products = with_splits(everyone)
    if others := len(everyone) - len(products):
        left_out["of another split"] = others
    return everyone, products


def _access(given: storage.Access | None, files: Sequence[str]) -> storage.Access:
    """``given``, with the folders of ``files`` that are local."""
    given = given or storage.Access()
    return replace(given, roots=(*given.roots, *(storage.resolve("", file) for file in files if is_local(file))))


def _asked(settings: PriorSettings, catalogue: str, of: str, held_out: Sequence[HeldOutPair]) -> dict[str, Any]:
    """What the record says of what was asked for, and of which pairs."""
    return {
        **asdict(settings),
        "catalogue": file_name(catalogue),
        "pairs": {"of": of, "queries": len({pair.query for pair in held_out}), "pairs": len(held_out)},
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
