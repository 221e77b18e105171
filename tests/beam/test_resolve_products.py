"""Pairs joined to the catalogue: what of a product goes with a pair, and what never crosses the shuffle."""

from __future__ import annotations

from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from transforms.beam.resolve_products import ResolveProducts, Side, crossing, resolve
from transforms.core.records import Failure, Pair, Product
from transforms.inputs.region_files import source_of

COLUMNS = frozenset(["colour"])
BOXES = '{"logo": [[10, 20, 30, 40]]}'
LABELLED = Product("1", "/c/1.jpg", (("colour", "red"), ("name", "One")), regions="/c/1.png", boxes=BOXES)
BOXED = Product("2", "/c/2.jpg", (("colour", "blue"),), boxes=BOXES)
BARE = Product("3", "/c/3.jpg")
PRODUCTS = [LABELLED, BOXED, BARE]


def pair(query_id: str, reference_id: str, query: str = "") -> Pair:
    return Pair(f"p{query_id}{reference_id}", query_id, reference_id, query)


@pytest.mark.parametrize("side", ["query", "reference"])
def test_regions_go_with_the_side_that_asks(side: Side) -> None:
    one = pair("1", "1")
    found = resolve(one, [LABELLED], side, COLUMNS)
    changes = {side: "/c/1.jpg", f"{side}_attributes": ("colour=red",), f"{side}_regions": "/c/1.png"}
    assert found == replace(one, **changes)  # type: ignore[arg-type]
    boxed = resolve(one, [BOXED], side, COLUMNS)
    assert isinstance(boxed, Pair)
    assert getattr(boxed, f"{side}_regions") == f"boxes:{BOXES}" == source_of(BOXED)


def test_regions_are_those_of_the_catalogue_s_photograph() -> None:
    """An address of the manifest is kept; where it is another one, the product's regions lie elsewhere in it."""
    same = resolve(pair("1", "2", query="/c/1.jpg"), [LABELLED], "query", COLUMNS)
    other = resolve(pair("1", "2", query="/c/other.jpg"), [LABELLED], "query", COLUMNS)
    assert isinstance(same, Pair)
    assert isinstance(other, Pair)
    assert (same.query, same.query_regions) == ("/c/1.jpg", "/c/1.png")
    assert (other.query, other.query_regions) == ("/c/other.jpg", None)
    assert other.query_attributes == ("colour=red",)


def test_what_cannot_be_resolved() -> None:
    unknown = resolve(pair("9", "2"), [], "query", COLUMNS)
    assert isinstance(unknown, Failure)
    assert unknown.reason == "unknown_product"
    twice = resolve(pair("1", "2"), [LABELLED, LABELLED], "query", COLUMNS)
    assert isinstance(twice, Failure)
    assert twice.reason == "ambiguous_product"
    addressed = pair("9", "2", query="/m/9.jpg")
    assert resolve(addressed, [], "query", COLUMNS) == addressed


def test_unasked_no_regions_cross_the_shuffle() -> None:
    for product in PRODUCTS:
        assert crossing(product, True) == product
        assert crossing(product, False) == replace(product, regions=None, boxes=None)


@pytest.mark.engine
def test_the_query_s_regions_alone_where_it_alone_is_explained() -> None:
    pairs = [pair("1", "2"), pair("2", "3"), pair("3", "1"), pair("1", "9")]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        products = pipeline | "Products" >> beam.Create(PRODUCTS)
        made = pipeline | "Pairs" >> beam.Create(pairs)
        queries = (made, products) | "Queries" >> ResolveProducts("query", COLUMNS, regions=True)
        references = (queries.pairs, products) | "References" >> ResolveProducts("reference", COLUMNS)
        found = references.pairs | beam.Map(lambda one: (one.pair_id, one.query_regions, one.reference_regions))
        expected = [("p12", "/c/1.png", None), ("p23", f"boxes:{BOXES}", None), ("p31", None, None)]
        assert_that(found, equal_to(expected), label="regions")
        failed = references.failures | "Ids" >> beam.Map(lambda failure: (failure.pair_id, failure.reason))
        assert_that(failed, equal_to([("p19", "unknown_product")]), label="failures")
