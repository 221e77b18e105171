"""Conditions from a catalogue, training under them, and the masks that checkpoints and bundles carry."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from export.bundling.from_torch import ExportRequest, export_command
from export.training.conditions import (
    ConditionalLoss,
    Conditions,
    condition_batches,
    conditional_retrieval,
    find_conditions,
)
from export.training.data.dataset import Indices
from export.training.data.labels import label_ids
from export.training.losses import conditional_triplets, cosine_distances, triplet_loss
from export.training.networks.backbones import Normalisation
from export.training.networks.checkpoint import Config, build_network, load, save
from export.training.networks.similarity_network import EmbeddingNetwork, TypeSpecificNetwork
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize
from transforms.core.metrics.retrieval import retrieval
from transforms.core.records import Pair, Product
from transforms.core.similarity import condition_name
from transforms.inputs import manifest
from transforms.serving import bundle as bundles
from transforms.serving.similarity_model import SimilarityModel

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIZE = (40, 24)
NORMALISATION = Normalisation(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NAMES = ("shirt+shirt", "shirt+trousers")
CONFIG = Config(
    "similarity",
    "export.training.networks.small_network:network",
    Resize(SIZE, "pad"),
    NORMALISATION,
    embedding=12,
    conditions=NAMES,
)


def product(number: int, kind: str | None, look: str | None) -> Product:
    cells = (("kind", kind), ("look", look))
    return Product(f"p{number}", "x.jpg", tuple((name, value) for name, value in cells if value is not None))


def catalogue(kinds: Sequence[int], looks: Sequence[int]) -> list[Product]:
    """Products of kinds and looks by number, an empty cell for -1."""
    return [
        product(i, "tuvw"[kind] if kind >= 0 else None, f"l{look}" if look >= 0 else None)
        for i, (kind, look) in enumerate(zip(kinds, looks, strict=True))
    ]


# Names

CELLS = st.text(
    st.one_of(st.sampled_from("+%:/2B5, \n"), st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    min_size=1,
    max_size=6,
).filter(lambda text: not text.isspace())


def test_names_by_hand() -> None:
    assert condition_name("Casual Shoes", "Belts") == condition_name("Belts", "Casual Shoes") == "Belts+Casual Shoes"
    assert condition_name("tops", "tops") == "tops+tops"
    assert condition_name("a+b", "c") == "a%2Bb+c"
    assert condition_name("a", "b+c") == "a+b%2Bc"
    assert condition_name("100% wool", "https://x.y/z") == "100%25 wool+https%3A//x.y/z"


@given(st.lists(CELLS, min_size=1, max_size=4, unique=True))
def test_names_say_which_types(types: list[str]) -> None:
    pairs = list(itertools.combinations_with_replacement(sorted(types), 2))
    names = [condition_name(v, u) for u, v in pairs]
    assert len(set(names)) == len(pairs)
    assert [tuple(unquote(part) for part in name.split("+")) for name in names] == pairs


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CELLS, CELLS)
def test_names_pass_through_a_manifest(tmp_path: Path, first: str, second: str) -> None:
    name = condition_name(first, second)
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerows([["query_id", "reference_id", "condition"], ["a", "b", name]])
    (pair,) = manifest.read(str(tmp_path / "pairs.csv"))
    assert isinstance(pair, Pair)
    assert pair.condition == name


# Which conditions there are


def slow_conditions(kinds: Sequence[int], looks: Sequence[int], among: Sequence[int], least: int) -> Any:
    """The pairs of kinds that are conditions, those that are none, and the products with a positive: by loops."""
    known = [i for i in among if kinds[i] >= 0 and looks[i] >= 0]
    present = sorted({kinds[i] for i in known})
    found: list[tuple[int, int]] = []
    unfit: list[tuple[int, int]] = []
    for u, v in itertools.combinations_with_replacement(present, 2):
        pairs = [p for p in itertools.combinations(known, 2) if sorted(kinds[i] for i in p) == [u, v]]
        alike = [looks[i] == looks[j] for i, j in pairs]
        (found if sum(alike) >= least and not all(alike) else unfit).append((u, v))
    usable = [
        i
        for i in known
        if any(j != i and looks[i] == looks[j] and tuple(sorted((kinds[i], kinds[j]))) in found for j in known)
    ]
    return found, unfit, usable


CATALOGUES = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=14)


@settings(deadline=None, max_examples=200)
@given(CATALOGUES, st.integers(1, 3))
def test_conditions_equal_their_definition(rows: list[tuple[int, int]], least: int) -> None:
    kinds, looks = zip(*rows, strict=True)
    products = catalogue(kinds, looks)
    if max(kinds) < 0:
        return
    labels, among = np.array(looks), np.array([i for i in range(len(rows)) if i % 5 != 4])
    found, unfit, usable = slow_conditions(kinds, looks, among.tolist(), least)
    if not found:
        with pytest.raises(UsageError, match="no two types of kind make a condition"):
            find_conditions(products, "kind", labels, among, least=least)
        return
    conditions = find_conditions(products, "kind", labels, among, least=least)
    number = {conditions.types.index("tuvw"[kind]): kind for kind in set(kinds) if kind >= 0}
    assert [(number[u], number[v]) for u, v in conditions.pairs] == found
    assert set(conditions.left_out) == {condition_name("tuvw"[u], "tuvw"[v]) for u, v in unfit}
    assert sorted(conditions.usable.tolist()) == usable
    assert [number.get(kind, -1) for kind in conditions.type_of.tolist()] == list(kinds)
    table = conditions.table
    for u, v in itertools.product(number, number):
        pair = (min(u, v), max(u, v))
        assert table[u, v] == (conditions.pairs.index(pair) if pair in conditions.pairs else -1)


def test_what_is_no_condition_and_why() -> None:
    #         t-t alike and not; t-u alike and not; u-u no two alike; t-v nothing shared; v-v all alike
    kinds = [0, 0, 0, 1, 1, 2, 2]
    looks = [0, 0, 1, 0, 2, 3, 3]
    conditions = find_conditions(catalogue(kinds, looks), "kind", np.array(looks), np.arange(7))
    assert conditions.names == ("t+t", "t+u")
    apart, same = "no two of their products share a label", "all of their products share one label"
    assert conditions.left_out == {"t+v": apart, "u+u": apart, "u+v": apart, "v+v": same}
    assert conditions.usable.tolist() == [0, 1, 3]  # 2 and 4 have no partner, 5 and 6 no condition
    assert conditions.record() == {
        "column": "kind",
        "types": {"t+t": ["t", "t"], "t+u": ["t", "u"]},
        "left_out": {apart: 3, same: 1},
    }
    said: list[str] = []
    conditions.print_summary(said.append)
    assert said == [
        "2 conditions join the 2 types of kind",
        f"no condition for 3 pairs of types, {apart}: t+v, u+u, u+v",
        f"no condition for 1 pairs of types, {same}: v+v",
    ]
    few = find_conditions(catalogue(kinds, looks), "kind", np.array(looks), np.arange(7), least=2)
    assert few.names == ("t+u",)
    assert few.left_out["t+t"] == "fewer than 2 pairs of their products share a label"


def test_what_can_make_no_conditions() -> None:
    products = catalogue([0, 1, 0, 1], [0, 1, 2, 3])
    labels = np.arange(4)
    with pytest.raises(UsageError, match=r"4 training products .* 2 types; no two of their products share a label"):
        find_conditions(products, "kind", labels, np.arange(4))
    with pytest.raises(UsageError, match="no attribute column 'size'; it has kind, look"):
        find_conditions(products, "size", labels, np.arange(4))
    with pytest.raises(UsageError, match="at least 1 positive pair, not 0"):
        find_conditions(products, "kind", labels, np.arange(4), least=0)
    endless = [product(i, "x" * 9000, f"l{look}") for i, look in enumerate([0, 0, 1])]
    with pytest.raises(UsageError, match="too long for a condition's name"):
        find_conditions(endless, "kind", np.array([0, 0, 1]), np.arange(3))


@settings(deadline=None, max_examples=100)
@given(CATALOGUES, st.integers(2, 9), st.integers(2, 4), st.integers(0, 99))
def test_an_epoch_holds_every_usable_product_once(
    rows: list[tuple[int, int]], batch: int, per_label: int, seed: int
) -> None:
    kinds, looks = zip(*(rows * 3), strict=True)
    labels, among = np.array(looks), np.arange(len(looks))
    try:
        conditions = find_conditions(catalogue(kinds, looks), "kind", labels, among)
    except UsageError:
        return
    batches, again = (
        condition_batches(conditions, labels, batch=batch, per_label=per_label, rng=np.random.default_rng(seed))
        for _ in range(2)
    )
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))
    drawn = [int(i) for indices in batches for i in indices]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(conditions.usable.tolist())
    assert len(conditions.usable) - len(drawn) < batch / 2  # no more than a short last batch is dropped
    for indices in batches:
        assert np.unique(labels[indices], return_counts=True)[1].min() >= 2


# The network


class Flat(nn.Module):
    """A backbone that is none: the pixels themselves, as channels of a map of one position."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :, None, None]


def network(conditions: int, *, embedding: int = 16, seed: int = 0, height: int = 2) -> TypeSpecificNetwork:
    torch.manual_seed(seed)
    return TypeSpecificNetwork(EmbeddingNetwork(Flat(), size=(height, 4), embedding=embedding), conditions)


def test_masks_start_as_published_and_the_embedding_is_the_plain_one() -> None:
    made = network(300, embedding=200)
    weights = made.mask_weights.detach()
    assert (weights.mean().item(), weights.std().item()) == pytest.approx((0.9, 0.7), abs=0.01)
    assert torch.equal(made.masks(), weights.relu())
    assert (made.masks() == 0).float().mean().item() == pytest.approx(0.099, abs=0.01)  # P(N(0.9, 0.7) < 0)
    assert torch.equal(network(300, embedding=200).mask_weights, made.mask_weights)
    x = torch.randn(5, 3, 2, 4)
    assert torch.equal(made(x), made.embedder(x))
    plain = network(1, embedding=200).embedder.head.weight
    assert torch.equal(plain, made.embedder.head.weight)  # the masks take nothing from the network's own draws


def test_no_mask_is_ever_all_zero() -> None:
    made = network(3, embedding=4)
    with torch.no_grad():
        made.mask_weights[0] = torch.tensor([-3.0, -1.0, -1.005, -2.0])
        made.mask_weights[1] = torch.tensor([-5.0, 0.2, -0.1, 0.4])
        made.mask_weights[2] = torch.full((4,), -1e-9)
    masks = made.masks()
    assert masks[0].tolist() == pytest.approx([0, 0.01, 0.005, 0], abs=1e-6)
    assert masks[1].tolist() == pytest.approx([0, 0.2, 0, 0.4])
    assert masks[2].tolist() == pytest.approx([0.01] * 4, abs=1e-6)
    masks.sum().backward()  # type: ignore[no-untyped-call]
    assert made.mask_weights.grad is not None
    assert made.mask_weights.grad.tolist() == [[0, 1, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]]


# Training


def descend(
    made: nn.Module,
    loss: Callable[[Indices], Mapping[str, Tensor]],
    conditions: Conditions,
    labels: Indices,
    *,
    steps: int,
) -> None:
    """A plain loop over the batches of as many epochs as the steps take."""
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    rng, done = np.random.default_rng(0), 0
    while done < steps:
        for indices in condition_batches(conditions, labels, batch=64, per_label=4, rng=rng):
            optimiser.zero_grad()
            torch.stack(list(loss(indices).values())).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1


def planted(collections: int) -> tuple[list[Product], Tensor]:
    """Collections of two shirts and two trousers or skirts, as linear mixtures [I, 3, 2, 4] of what they look like.

    Trousers have the colour of their collection's shirts and a pattern of their own, skirts the pattern and a colour of
    their own; a third of each look means nothing. The mixture hides which is which.
    """
    rng = np.random.default_rng(1)
    mixture = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    products: list[Product] = []
    looks = []
    for collection in range(collections):
        colour, pattern = rng.normal(size=(2, 8))
        for kind in ["shirt", "shirt", *["trousers" if collection % 2 else "skirt"] * 2]:
            seen = [rng.normal(size=8) if kind == "skirt" else colour, pattern, rng.normal(size=8)]
            seen[1] = rng.normal(size=8) if kind == "trousers" else pattern
            looks.append((np.concatenate(seen) + rng.normal(0, 0.1, 24)) @ mixture)
            products.append(product(len(products), kind, f"{collection:03}"))
    return products, torch.tensor(np.array(looks), dtype=torch.float32).reshape(-1, 3, 2, 4)


def test_masks_learn_that_types_match_by_different_things() -> None:
    products, x = planted(80)
    labels, _ = label_ids(products, ["look"])
    train, test = np.flatnonzero(labels < 60), np.flatnonzero(labels >= 60)
    conditions = find_conditions(products, "kind", labels, train)
    assert conditions.names == (
        "shirt+shirt", "shirt+skirt", "shirt+trousers", "skirt+skirt", "trousers+trousers"
    )  # fmt: skip
    made = network(len(conditions.names))
    loss = ConditionalLoss(made.masks, labels, conditions.type_of, conditions.table, 0.2, "semi-hard")
    descend(made, lambda indices: loss(made(x[indices]), indices), conditions, labels, steps=240)
    plain = network(1).embedder  # trained on the same batches, without conditions
    mined, wanted = triplet_loss("semi-hard"), torch.from_numpy(labels)

    def unconditional(indices: Indices) -> dict[str, Tensor]:
        return {"triplet": mined(cosine_distances(plain(x[indices])), wanted[indices], 0.2)}

    descend(plain, unconditional, conditions, labels, steps=240)

    def judged(embedder: nn.Module, masks: Any, *some: int) -> float:
        """Mean average precision among unseen collections, under some of the conditions."""
        with torch.no_grad():
            embeddings = embedder(x[test]).numpy()
        table = np.where(np.isin(conditions.table, some), conditions.table, -1)
        return conditional_retrieval(embeddings, masks, labels[test], conditions.type_of[test], table)["map"]

    masks = made.masks().detach().numpy()
    ones, swapped = np.ones_like(masks), masks[[0, 2, 1, 3, 4]]
    assert judged(made, masks, *range(5)) > 0.85
    for embedder in (made, plain):
        assert judged(made, masks, *range(5)) > judged(embedder, ones, *range(5)) + 0.1
        assert judged(made, masks, 1, 2) > judged(embedder, ones, 1, 2) + 0.15
    assert judged(made, swapped, 1, 2) < judged(made, ones, 1, 2) - 0.1  # each looks where the other should
    units = masks / np.linalg.norm(masks, axis=1, keepdims=True)
    assert units[1] @ units[3] > units[1] @ units[2] + 0.2  # skirts match by pattern, whatever with
    assert units[2] @ units[4] > units[1] @ units[2] + 0.2
    assert masks.min() >= 0


def test_a_strong_penalty_makes_masks_sparse_but_not_empty() -> None:
    products, x = planted(20)
    labels, _ = label_ids(products, ["look"])
    conditions = find_conditions(products, "kind", labels, np.arange(len(products)))
    made = network(len(conditions.names))
    before = (made.masks() == 0).float().mean().item()
    loss = ConditionalLoss(made.masks, labels, conditions.type_of, conditions.table, 0.2, "semi-hard", mask_weight=1.0)
    descend(made, lambda indices: loss(made(x[indices]), indices), conditions, labels, steps=250)
    masks = made.masks().detach()
    assert (masks == 0).float().mean().item() > before + 0.2
    assert masks.amax(dim=1).min().item() >= 0.009
    assert masks.min().item() == 0


def test_the_parts_of_the_loss() -> None:
    kinds, looks = [0, 0, 1, 1, 2, 2, 2], [0, 1, 0, 1, 0, 0, 1]
    labels = np.array(looks)
    conditions = find_conditions(catalogue(kinds, looks), "kind", labels, np.arange(7))
    assert conditions.names == ("t+u", "t+v", "u+v", "v+v")
    made = network(4, embedding=5)
    loss = ConditionalLoss(made.masks, labels, conditions.type_of, conditions.table, 0.3, "batch-hard", 0.25, 0.5)
    indices = np.array([3, 0, 2, 1])  # of t and u
    embeddings = torch.randn(4, 5, requires_grad=True)
    parts = loss(embeddings, indices)
    table = torch.from_numpy(conditions.table)
    batch = torch.from_numpy(labels[indices]), torch.from_numpy(conditions.type_of[indices]), table
    expected = conditional_triplets(embeddings, made.masks(), *batch, 0.3, "batch-hard")
    assert parts["triplet"].item() == expected.item()
    assert parts["mask"].item() == pytest.approx(0.25 * made.masks()[0].sum().item())
    assert parts["embedding"].item() == pytest.approx(0.5 * embeddings.square().sum(dim=1).mean().sqrt().item())
    torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert made.mask_weights.grad is not None
    assert made.mask_weights.grad[0].abs().max() > 0
    assert made.mask_weights.grad[1:].abs().max() == 0  # not in the batch: not moved by the penalty alone


# Validation


def test_conditional_retrieval_by_hand() -> None:
    # Type 0 twice, type 1 three times; the condition sees the first two dimensions. By angle there: 0, 90 | 10, 80, 50.
    angles = np.radians([0, 90, 10, 80, 50])
    embeddings = np.stack([np.cos(angles), np.sin(angles), [9, -9, -9, 9, 0]], axis=1).astype(np.float32)
    masks, table = np.array([[2, 2, 0]], np.float32), np.array([[-1, 0], [0, -1]])
    labels, types = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    found = conditional_retrieval(embeddings, masks, labels, types, table)
    # From type 0: 10 is first for 0, AP 1; for 90 the order is 80, 50, 10, AP 1. From type 1 all find theirs first
    # (50 is nearer to 90 than to 0), AP 1. Without the mask the third dimension turns the first two around.
    chance = (1 / 3 + 2 / 3 + 3 * 1 / 2) / 5
    assert found == pytest.approx({"recall@1": 1.0, "map": 1.0, "chance": chance, "queries": 5.0})
    blind = conditional_retrieval(embeddings, np.ones((1, 3), np.float32), labels, types, table)
    # 0 (9) ranks 80 (9), 50 (0), 10 (-9): AP 1/3. 90 (-9) ranks 10, 50, 80: AP (1/2 + 2/3)/2. 10 (-9) takes 90 (-9)
    # first, 80 (9) takes 0 (9): AP 1/2 each. 50 (0) is nearer to 90 (-9)'s cos 0.77/9.06 than to 0's 0.64/9.06: AP 1.
    assert blind["recall@1"] == pytest.approx(1 / 5)
    assert blind["map"] == pytest.approx((1 / 3 + (1 / 2 + 2 / 3) / 2 + 1 / 2 + 1 / 2 + 1) / 5)
    nothing = conditional_retrieval(embeddings[:2], masks, labels[:2], types[:2], table)
    assert nothing["queries"] == 0
    assert np.isnan(nothing["map"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=12), st.integers(0, 2**16))
def test_one_condition_of_one_type_is_plain_retrieval(looks: list[int], seed: int) -> None:
    labels = np.array(looks)
    embeddings = np.random.default_rng(seed).normal(size=(len(looks), 3)).astype(np.float32)
    found = conditional_retrieval(
        embeddings, np.ones((1, 3), np.float32), labels, np.zeros_like(labels), np.array([[0]])
    )
    assert found == pytest.approx(retrieval(embeddings, labels), nan_ok=True)


def test_products_without_a_type_or_a_label_ask_nothing() -> None:
    embeddings = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]], np.float32)
    ones, table = np.ones((1, 2), np.float32), np.array([[0]])
    found = conditional_retrieval(embeddings, ones, np.array([0, -1, 0, 0]), np.array([0, 0, 0, -1]), table)
    # 0 and 2 look for each other past 1, which has no label but is there; 3 has no type.
    assert (found["queries"], found["recall@1"], found["map"], found["chance"]) == (2.0, 0.0, 0.5, 0.5)


# Checkpoints and bundles


def checkpoint(path: Path, config: Config = CONFIG) -> nn.Module:
    torch.manual_seed(4)
    made = build_network(config).train()
    with torch.no_grad():
        made(torch.randn(8, 3, *config.resize.size) * 2 + 0.5)
    save(path, config, made)
    return made


def test_a_checkpoint_keeps_the_masks_and_their_names(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "similarity.pt")
    assert isinstance(made, TypeSpecificNetwork)
    config, again = load(tmp_path / "similarity.pt", "similarity")
    assert isinstance(again, TypeSpecificNetwork)
    assert config == CONFIG
    assert torch.equal(again.masks(), made.masks())
    assert again.masks().shape == (2, 12)
    x = torch.randn(3, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(again(x), made.eval()(x))


def test_checkpoints_of_earlier_versions_have_no_conditions(tmp_path: Path) -> None:
    path = tmp_path / "similarity.pt"
    checkpoint(path, replace(CONFIG, conditions=()))
    content = torch.load(path, weights_only=True)
    del content["config"]["conditions"]
    torch.save(content, path)
    config, again = load(path, "similarity")
    assert config.conditions == ()
    assert isinstance(again, EmbeddingNetwork)


@pytest.mark.parametrize("names", [[], ["shirt+shirt"], [*NAMES, "skirt+skirt"]])
def test_a_checkpoint_with_other_names_than_masks_is_damaged(names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "similarity.pt"
    checkpoint(path)
    content = torch.load(path, weights_only=True)
    content["config"]["conditions"] = names
    torch.save(content, path)
    with pytest.raises(UsageError, match="does not fit its own description"):
        load(path, "similarity")


def test_a_checkpoint_with_a_name_twice_is_damaged(tmp_path: Path) -> None:
    checkpoint(tmp_path / "similarity.pt", replace(CONFIG, conditions=("a+b", "a+b")))
    with pytest.raises(UsageError, match="incomplete description"):
        load(tmp_path / "similarity.pt", "similarity")


def test_a_bundle_has_the_plain_embedding_and_the_masks(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "similarity.pt", replace(CONFIG, training={"conditions": {"column": "kind"}}))
    assert isinstance(made, TypeSpecificNetwork)
    checkpoint(tmp_path / "plain.pt", replace(CONFIG, conditions=()))
    said: list[str] = []
    for name in ("similarity", "plain"):
        export_command(ExportRequest(tmp_path / f"{name}.pt", tmp_path / name, gradient=False), echo=said.append)
    built, plain = (bundles.read(str(tmp_path / name)) for name in ("similarity", "plain"))
    assert list(built.conditions) == list(NAMES)
    assert [list(mask) for mask in built.conditions.values()] == made.masks().tolist()
    assert built.training["similarity"]["conditions"] == {"column": "kind"}
    assert "embedding of 12 with 2 conditions" in said[0]
    assert plain.conditions == {}
    assert built.model_id != plain.model_id
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    served = SimilarityModel(built, tmp_path / "similarity", "cpu", 1, 4).embed(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = made.eval()(NORMALISATION.apply(pixels)).numpy()
    assert served == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-5)
    # The masks are in bundle.json alone: the graphs are those of a network without any.
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("*.onnx")) for name in ("similarity", "plain")]
    assert sizes[0] == sizes[1]
