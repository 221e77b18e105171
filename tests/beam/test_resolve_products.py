"""Pairs joined to the catalogue: which side gets its regions, and what cannot be resolved."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from transforms.beam.resolve_products import ResolveProducts
from transforms.core.records import Pair, Product

COLUMNS = frozenset(["colour"])
BOXES = '{"logo": [[10, 20, 30, 40]]}'
LABELLED = Product("1", "/c/1.jpg", (("colour", "red"), ("name", "One")), regions="/c/1.png", boxes=BOXES)
BOXED = Product("2", "/c/2.jpg", (("colour", "blue"),), boxes=BOXES)
BARE = Product("3", "/c/3.jpg")
PRODUCTS = [LABELLED, BOXED, BARE]


@pytest.mark.engine
def test_the_query_s_regions_alone_where_it_alone_is_explained() -> None:
    pairs = [Pair(f"p{query}{reference}", query, reference) for query, reference in ("12", "23", "31", "19")]
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
