"""What a run says of its catalogue: by hand on two strata, whatever the tables hold, and no more than they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.results.summary.groups import COLUMNS
from pipeline.results.summary.quantities import MEANS, Quantity, measure, quantities
from pipeline.results.summary.summarise import RunSummary
from pipeline.results.summary.text import lines
from tests.support.tables.rows import explanation, failure, publish
from tests.support.tables.strata import shirts_and_shoes, stratum, summary, write
from transforms import tables
from transforms.core.errors import UsageError
from transforms.core.imaging import maps


def estimate(found: RunSummary, name: str, value: str | None = None) -> float:
    (one,) = (line for line in found.estimates if line.quantity == Quantity(name, value))
    return one.interval.estimate


def bounds(found: RunSummary, name: str) -> tuple[float, float]:
    (one,) = (line for line in found.estimates if line.quantity == Quantity(name))
    return one.interval.low, one.interval.high


def test_two_strata_by_hand(tmp_path: Path) -> None:
    """Weights 2 and 8: 2 · 3 + 8 · 2 = 22 pairs, 2 · 3 + 8 · 1 = 14 of them explained; unweighted it were 4 of 5."""
    found = summary(write(tmp_path, *shirts_and_shoes()))
    assert estimate(found, "explained") == pytest.approx(14 / 22)
    assert estimate(found, "similarity") == pytest.approx((2 * (0.5 * 2 + 0.625) + 8 * (0.75 + 0.875)) / 22)
    (line,) = (one for one in found.estimates if one.quantity.name == "explained")
    assert (line.pairs, line.queries) == (5, 4)
    low, high = bounds(found, "similarity")
    assert low < estimate(found, "similarity") < high
    assert not found.is_exact


def test_failures_weigh_and_the_unreadable_are_a_census(tmp_path: Path) -> None:
    """A failed pair of a shoe is 8 of 30 pairs; a row that no query could be read of is one row and stands for none."""
    rows, strata = shirts_and_shoes()
    failed = [
        {**failure("query-4", "r0", "not_found"), "stratum": "shoes"},
        {**failure("", "", "bad_row"), "query_id": None, "pair_id": None, "stratum": "(unreadable)"},
    ]
    strata[1] = stratum("shoes", 24, 3)
    found = summary(write(tmp_path, rows, strata, failed))
    assert estimate(found, "failed") == pytest.approx((8 + 1) / (22 + 8 + 1))
    (line,) = (one for one in found.estimates if one.quantity.name == "failed")
    assert (line.pairs, line.queries) == (7, 5)
    assert estimate(found, "explained") == pytest.approx(14 / 22), "a query that only failed says nothing here"
    assert found.failures == {"shirts": (0, 3), "shoes": (1, 3)}


def test_a_query_in_two_strata_is_a_unit_of_each(tmp_path: Path) -> None:
    rows = [
        explanation("both", "r0", stratum="a", similarity=0.0),
        explanation("both", "r1", stratum="b", similarity=1.0),
        *(explanation(f"q{at}", "r", stratum="ab"[at % 2], similarity=at % 2) for at in range(2)),
    ]
    found = summary(write(tmp_path, rows, [stratum("a", 20, 2), stratum("b", 60, 2)]))
    assert estimate(found, "similarity") == pytest.approx(0.75)


def test_a_whole_catalogue_is_exact_and_a_process_is_not(tmp_path: Path) -> None:
    rows, _ = shirts_and_shoes()
    write(tmp_path, rows, [stratum("shirts", 2, 2, 2), stratum("shoes", 2, 2)])
    found, process = summary(tmp_path), summary(tmp_path, population="process")
    assert found.is_exact
    assert bounds(found, "similarity") == (estimate(found, "similarity"),) * 2
    assert not process.is_exact
    low, high = bounds(process, "similarity")
    assert low < estimate(process, "similarity") < high
    assert estimate(process, "similarity") == estimate(found, "similarity") == pytest.approx(3.25 / 5)


@pytest.mark.parametrize("shards", [1, 3])
def test_neither_files_nor_the_order_of_rows_matter(tmp_path: Path, shards: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((40, 3))
    rows = [
        explanation(f"q{at}", f"r{pair}", stratum="ab"[at % 2], similarity=float(values[at, pair]))
        for at in range(40)
        for pair in range(3)
    ]
    strata = [stratum("a", 100, 20, 3), stratum("b", 300, 20, 3)]
    one = summary(write(tmp_path / "one", rows, strata))
    other = write(tmp_path / "other", [], strata)
    (tmp_path / "other" / "explanations" / "run_id=r" / "part-00000.parquet").unlink()
    for shard in range(shards):
        of_shard = [row for row in reversed(rows) if int(row["query_id"][1:]) % shards == shard]
        publish(other, "explanations", "r", sorted(of_shard, key=lambda row: row["reference_id"]), shard)
    assert summary(other).estimates == one.estimates


def test_strata_with_too_few_queries_are_merged_and_named(tmp_path: Path) -> None:
    rows = [explanation(f"q{at}", "r", stratum="abbbb"[at], similarity=float(at > 0)) for at in range(5)]
    found = summary(write(tmp_path, rows, [stratum("a", 10, 1), stratum("b", 20, 4), stratum("c", 5, 0)]))
    assert found.merged == ("a", "b", "c")
    assert [one.name for one in found.sample.unseen] == ["c"]
    # of c nothing is known: of the 30 others those of b have 1, and those of a 0
    assert estimate(found, "similarity") == pytest.approx(20 / 30)


@pytest.mark.parametrize("of", ["catalogue", "process"])
@pytest.mark.parametrize("explained", ["large", "small"])
def test_merged_strata_keep_their_weights(tmp_path: Path, of: str, explained: str) -> None:
    """One query was drawn of 1000, and one of 10: the one says what it says of 1000, or of 10, of 1010."""
    sizes = {"large": 1000, "small": 10}
    rows = [explanation(name, "r", stratum=name, explained=name == explained, condition=name) for name in sizes]
    out = write(tmp_path, rows, [stratum(name, size, 1) for name, size in sizes.items()])
    found = summary(out, population=of)
    assert found.merged == ("large", "small")
    assert estimate(found, "explained") == pytest.approx(sizes[explained] / 1010)
    shares = {group.value: group.share for group in summary(out, population=of, by="condition").groups}
    assert shares == pytest.approx({"large": 1000 / 1010, "small": 10 / 1010})


def test_the_shares_of_values_are_of_the_whole_catalogue(tmp_path: Path) -> None:
    """c was not sampled, a and b stand for it: 2 of 3 queries are of b, and 3 of 4 of all are not of d."""
    rows = [explanation(name, "r", stratum=name[0], condition=name[0]) for name in ("a", "b", "d0", "d1")]
    strata = [stratum("a", 10, 1), stratum("b", 20, 1), stratum("c", 30, 0), stratum("d", 20, 2)]
    shares = {group.value: group.share for group in summary(write(tmp_path, rows, strata), by="condition").groups}
    assert shares == pytest.approx({"a": 20 / 80, "b": 40 / 80, "d": 20 / 80})


def test_strata_taken_whole_stand_for_no_others(tmp_path: Path) -> None:
    """The one query of a is all of a; b and c are merged, and weigh 10 and 20."""
    told = {"q0": ("a", 0.0), "q1": ("b", 1.0), "q2": ("c", 0.5)}
    rows = [explanation(query, "r", stratum=name, similarity=value) for query, (name, value) in told.items()]
    found = summary(write(tmp_path, rows, [stratum("a", 1, 1), stratum("b", 10, 1), stratum("c", 20, 1)]))
    assert found.merged == ("b", "c")
    assert estimate(found, "similarity") == pytest.approx((0 + 10 * 1 + 20 * 0.5) / 31)


@pytest.mark.parametrize("unreadable", [0, 2])
@pytest.mark.parametrize("of", ["catalogue", "process"])
def test_one_query_for_many_has_no_interval(tmp_path: Path, unreadable: int, of: str) -> None:
    failed = [{**failure("", "", "bad_row"), "query_id": None, "source": str(at)} for at in range(unreadable)]
    found = summary(write(tmp_path, [explanation("q", "r")], [stratum("all", 6, 1)], failed), population=of)
    assert estimate(found, "failed") == pytest.approx(unreadable / (6 + unreadable))
    assert all(math.isnan(end) for end in bounds(found, "similarity"))


def test_nothing_but_unreadable_rows(tmp_path: Path) -> None:
    failed = [{**failure("", "", "bad_row"), "query_id": None, "stratum": "(unreadable)"}]
    found = summary(write(tmp_path, [], [], failed))
    assert [(line.quantity.name, line.interval.estimate, line.pairs) for line in found.estimates] == [
        ("failed", 1.0, 1)
    ]


def test_what_is_erased_is_stood_for_by_what_is_left(tmp_path: Path) -> None:
    rows, strata = shirts_and_shoes()
    strata[1] = stratum("shoes", 16, 5)
    found = summary(write(tmp_path, rows, strata))
    assert found.sample.gone == 3
    assert estimate(found, "explained") == pytest.approx(14 / 22)


def test_old_runs_took_every_query(tmp_path: Path) -> None:
    """Before version 5: strata without weights, which count no query whose pairs all failed before."""
    rows = [explanation(f"q{at}", "r", similarity=at / 4) for at in range(4)]
    failed = [failure("q9", "r", "unknown_product"), {**failure("", "", "bad_row"), "query_id": None}]
    out = write(tmp_path, rows, [stratum("all", 4, 4)], failed)
    for table, lacks in {
        "runs": ["sampling_seed", "stratified_by", "thresholds"],
        "strata": ["sampled_pairs", "weight"],
        "explanations": ["region_shares", "contrast", "regions_failure", "side"],
        "failures": ["method", "side"],
    }.items():
        path = tmp_path / table / "run_id=r" / tables.part(0)
        old = pq.read_table(path, partitioning=None).drop_columns(lacks)
        version = old.schema.get_field_index("schema_version")
        pq.write_table(old.set_column(version, "schema_version", pa.array([1] * old.num_rows, pa.int32())), path)
    found = summary(out)
    assert found.is_exact
    assert estimate(found, "failed") == pytest.approx(2 / 6)
    assert estimate(found, "similarity") == pytest.approx(1.5 / 4)
    assert Quantity("explained") in found.unsaid


def test_every_quantity_by_hand(tmp_path: Path) -> None:
    regions = [{"name": "shirt", "share": 0.75, "area": 0.5, "peak": True}]
    rows = [
        explanation("q0", "r0", top=[("red", 1.0), ("blue", 0.5)], served_score=0.765, region_shares=regions),
        explanation("q1", "r0", top=[("blue", 1.0)], served_score=0.759, region_shares=[], peak_row=5, peak_column=8),
        explanation("q2", "r0", top=[], explained=False, unexplained_reason="unreliable_map", border_share=0.25),
        explanation("q3", "r0", explained=True, map_reliability=0.5, null_agreement=-0.25, background_share=0.0),
    ]
    rows[0]["top"][0]["on_reference"] = False
    rows[1]["top"][0]["on_query"] = None
    found = summary(write(tmp_path, rows, [stratum("all", 4, 4)]))
    told = {(line.quantity.name, line.quantity.value): (line.interval.estimate, line.pairs) for line in found.estimates}
    assert told == {
        ("failed", None): (0, 4),
        ("explained", None): (0.5, 2),
        ("unexplained", "unreliable_map"): (0.5, 2),
        ("first_attribute", "blue"): (0.5, 2),
        ("first_attribute", "red"): (0.5, 2),
        ("contradicted_on_reference", None): (0.5, 2),
        ("contradicted_on_query", None): (0, 1),
        ("peak_in_border", None): (0.75, 4),
        ("border_over_area", None): (0.75, 4),
        ("background_over_area", None): (0.75, 4),
        ("region_peak", "shirt"): (0.5, 2),
        ("off_served_score", None): (0.5, 2),
        ("similarity", None): (0.75, 4),
        ("border_share", None): (0.4375, 4),
        ("border_area", None): (0.25, 4),
        ("background_share", None): (0.375, 4),
        ("background_area", None): (0.25, 4),
        ("entropy", None): (0.5, 4),
        ("map_reliability", None): (0.5, 1),
        ("null_agreement", None): (-0.25, 1),
        ("region_share", "shirt"): (0.375, 2),
        ("region_area", "shirt"): (0.25, 2),
    }


def test_the_tolerance_is_the_audit_s(tmp_path: Path) -> None:
    rows = [explanation("q", "r", similarity=0.75, served_score=0.7)]
    found = summary(write(tmp_path, rows, [stratum("all", 1, 1)], configuration='{"score_tolerance": 0.1}'))
    assert (estimate(found, "off_served_score"), found.tolerance) == (0, 0.1)


@pytest.mark.parametrize("size", [(12, 16), (5, 3), (1, 9), (224, 224)])
def test_the_border_is_that_of_the_map_statistics(size: tuple[int, int]) -> None:
    places = [(row, column) for row in range(min(size[0], 40)) for column in range(min(size[1], 40))]
    rows = [
        explanation("q", "r", peak_row=row, peak_column=column, input_height=size[0], input_width=size[1])
        for row, column in places
    ]
    (batch,) = tables.to_arrow("explanations", rows).combine_chunks().to_batches()
    above, below = measure(batch, [Quantity("peak_in_border")], 0.01)
    border = maps._border(*size)
    assert above[:, 0].tolist() == [float(border[place]) for place in places]
    assert below.all()


def test_numbers_that_are_none_count_nowhere(tmp_path: Path) -> None:
    rows = [explanation(f"q{at}", "r", entropy=value) for at, value in enumerate([math.nan, math.inf, 0.25])]
    found = summary(write(tmp_path, rows, [stratum("all", 3, 3)]))
    assert estimate(found, "entropy") == 0.25
    write(tmp_path / "large", [explanation("q", "r", entropy=1e300)], [stratum("all", 1, 1)])
    with pytest.raises(UsageError, match="entropy beyond 1e"):
        summary(tmp_path / "large")


def test_methods_and_sides_are_looked_at_one_by_one(tmp_path: Path) -> None:
    rows = [
        explanation("q", f"r{pair}", method=method, side=side, similarity=value)
        for pair in range(2)
        for method, side, value in (("rise", "query", 0.1), ("rise", "reference", 0.2), ("lime", "query", 0.3))
    ]
    failed = [
        {**failure("q", "r0", "model_failed"), "method": "lime", "side": "reference"},
        {**failure("q", "r1", "model_failed"), "method": "lime", "side": "reference"},
        {**failure("q", "r2", "not_found")},
    ]
    out = write(tmp_path, rows, [stratum("all", 1, 1, 3)], failed, configuration='{"methods": ["rise", "lime"]}')
    assert estimate(summary(out), "similarity") == pytest.approx(0.1)
    assert estimate(summary(out), "failed") == pytest.approx(1 / 3)
    assert estimate(summary(out), "failed_in_part") == 1
    assert estimate(summary(out, side="reference"), "similarity") == pytest.approx(0.2)
    assert estimate(summary(out, method="lime", side="reference"), "failed") == 1
    by = summary(out, by="method")
    assert {group.value: group.estimates[0].interval.estimate for group in by.groups} == {
        "lime": pytest.approx(1 / 3),
        "rise": pytest.approx(1 / 3),
    }
    with pytest.raises(UsageError, match="--method 'sbsm': the run has 'lime', 'rise'"):
        summary(out, method="sbsm")
    plain = write(tmp_path / "plain", [explanation("q", "r")], [stratum("all", 1, 1)])
    with pytest.raises(UsageError, match="the run explains 'query'"):
        summary(plain, side="reference")


def test_by_extra_and_catalogue_columns(tmp_path: Path) -> None:
    rows, strata = shirts_and_shoes()
    for row, channel in zip(rows, ["web", "web", "app", "app", None], strict=True):
        row["extra"] = json.dumps({"channel": channel, "number": None})
    failed = [{**failure("query-3", "r1", "not_found"), "stratum": "shoes"}]
    products = {
        "query-0": ["colour=red"],
        "query-1": ["colour=blue", "colour=red"],
        "query-3": ["size=a=b"],
        "x": ["y=z"],
    }
    out = write(tmp_path, rows, strata, failed, products)

    by_channel = summary(out, by="channel")
    shares = {group.value: (group.pairs, group.share) for group in by_channel.groups}
    assert shares == {"web": (2, 4 / 22), "app": (2, 10 / 22), "(none)": (1, 8 / 22)}
    assert by_channel.silent
    assert not any(line.quantity.name == "failed" for group in by_channel.groups for line in group.estimates)

    colour = summary(out, by="colour")
    told = {
        group.value: {line.quantity.name: line.interval.estimate for line in group.estimates} for group in colour.groups
    }
    assert list(told) == ["(none)", "red", "blue"]
    assert told["(none)"]["failed"] == pytest.approx(1 / 3)
    assert told["(none)"]["explained"] == pytest.approx(1 / 2)
    assert told["red"]["similarity"] == pytest.approx((0.5 * 2 + 0.625) / 3)
    assert [group.value for group in summary(out, by="size").groups] == ["a=b", "(none)"]

    with pytest.raises(
        UsageError, match=r"'cut': no such column.*'channel', 'number'; the catalogue has: 'colour', 'si"
    ):
        summary(out, by="cut")


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("explained", [True, False])
def test_a_run_with_failures_is_told_by_every_column(tmp_path: Path, column: str, explained: bool) -> None:
    """A failure says its stratum, method and side, and of what else explanations are grouped by nothing."""
    rows, strata = shirts_and_shoes()
    failed = [{**failure("query-3", "r1", "not_found"), "stratum": "shoes", "method": "rise", "side": "query"}]
    if not explained:
        rows, strata = [], [stratum("shoes", 1, 1)]
    found = summary(write(tmp_path, rows, strata, failed), by=column)
    assert found.silent == (column not in ("stratum", "method", "side"))
    assert bool(found.groups) == (explained or not found.silent)
    assert sum(group.pairs for group in found.groups) == len(rows) + (not found.silent)
    told = {line.quantity.name for group in found.groups for line in group.estimates}
    assert ("failed" in told) == (not found.silent)
    assert lines(found)


def test_the_most_frequent_values_are_shown(tmp_path: Path) -> None:
    """Of a weight of 100 one query is more than two of weight 1."""
    rows = [explanation(f"q{at:02}", "r", stratum="many", condition=f"c{at:02}") for at in range(22)]
    rows += [explanation(f"p{at}", "r", stratum="few", condition=["z", "y", "y"][at]) for at in range(3)]
    out = write(tmp_path, rows, [stratum("many", 22, 22), stratum("few", 300, 3)])
    found = summary(out, by="condition")
    assert [group.value for group in found.groups][:3] == ["y", "z", "c00"]
    assert (len(found.groups), found.hidden) == (20, 4)


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows, strata = shirts_and_shoes()
    with pytest.raises(UsageError, match="does not have: 'shoes'"):
        summary(write(tmp_path / "a", rows, strata[:1]))
    with pytest.raises(
        UsageError, match="2 queries in the stratum 'shoes', and its table strata says that there are 1"
    ):
        summary(write(tmp_path / "b", rows, [strata[0], stratum("shoes", 1, 1)]))
    with pytest.raises(UsageError, match="twice"):
        summary(write(tmp_path / "c", rows, [*strata, strata[0]]))
    with pytest.raises(UsageError, match="that cannot be"):
        summary(write(tmp_path / "d", rows, [strata[0], {**strata[1], "sampled_queries": 99}]))
    with pytest.raises(UsageError, match="nothing to estimate"):
        summary(write(tmp_path / "e", [], strata))
    for at, text in enumerate(("[1]", "{", "[" * 100_000)):
        out = write(tmp_path / f"f{at}", [{**row, "extra": text} for row in rows], strata)
        with pytest.raises(UsageError, match="no JSON object"):
            summary(out, by="channel")


@pytest.mark.parametrize("table", ["explanations", "failures", "strata", "products"])
def test_damaged_files_are_named(tmp_path: Path, table: str) -> None:
    out = write(tmp_path, *shirts_and_shoes())
    path = tmp_path / table / "run_id=r" / tables.part(0)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match=f"{table}.*part-00000.parquet cannot be read"):
        summary(out, by="colour")


def test_quantities_have_a_kind() -> None:
    kinds = {one.name: one.kind for one in quantities(["a"], ["b"], ["c"])}
    means = {name for name, kind in kinds.items() if kind == "mean"}
    assert means == {*MEANS, "region_share", "region_area"}
