"""What an audit will take: by hand, against real runs where there is one, and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import cli
from pipeline.audit import launch
from pipeline.audit.forecast import (
    Resources,
    RunForecast,
    check_resources,
    forecast,
    graph_of,
    in_words,
    resources_here,
    written_bytes,
)
from pipeline.audit.forecast_text import lines, print_forecast
from pipeline.audit.options import AuditOptions
from pipeline.audit.probe import Probe
from pipeline.options.command_line import options_of
from tests.support.audits import audit
from tests.support.models.bundles import small_bundle
from transforms.core.errors import UsageError
from transforms.core.passes import Passes
from transforms.core.statistics.sampling import SamplingDesign, Stratum
from transforms.serving.bundle import Bundle

PROBE = Probe(
    passes_per_second=50,
    gradient_passes_per_second=None,
    seconds_per_image=0.01,
    bytes_per_image=2000,
    images_tried=8,
    images_loaded=8,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("planned") / "bundle")


def options(**changes: Any) -> AuditOptions:
    given: dict[str, Any] = {"manifest": ("m.csv",), "bundle": "b", "out": "/out", "run_id": "r", **changes}
    return AuditOptions(**given)


def design(*strata: tuple[str, int, int, int, int], column: str | None = "category") -> SamplingDesign:
    """A design of strata given as name, queries, sampled queries, pairs, sampled pairs."""
    made = {name: Stratum(name, all_, kept, pairs, some, kept / all_) for name, all_, kept, pairs, some in strata}
    return SamplingDesign(0, made, column)


TWO = design(("shoes", 40, 10, 200, 50), ("bags", 20, 20, 60, 60))


def look(small: Bundle, made: SamplingDesign = TWO, **changes: Any) -> RunForecast:
    """An outlook of 263 rows, 3 of them unreadable, at 41 masks and a pass an image."""
    given: dict[str, Any] = {
        "passes": Passes(("query",), masks=41),
        "probe": PROBE,
        "rows": 263,
        "unreadable": 3,
        "worker_memory": 2**28,
    }
    own = {name: changes.pop(name) for name in given.keys() & changes.keys()}
    return forecast(options(**changes), small, made, **{**given, **own})


def test_counts_are_those_of_the_manifest_and_of_the_sample(small: Bundle) -> None:
    found = look(small)
    assert (found.rows, found.unreadable) == (263, 3)
    assert (found.queries, found.sampled_queries, found.pairs, found.sampled_pairs) == (60, 30, 260, 110)
    assert [(one.name, one.queries, one.sampled_queries) for one in found.strata] == [
        ("bags", 20, 20),
        ("shoes", 40, 10),
    ]
    assert (found.column, found.worker_memory, found.early) == ("category", 2**28, False)


def test_passes_are_those_of_queries_and_of_pairs(small: Bundle) -> None:
    """Of 30 queries 41 masked images and the whole one, of 110 references the whole one; 24 random ones, once."""
    assert look(small).passes == 30 * 42 + 110 == 1370
    assert look(small, passes=Passes(("query",), masks=41, random=24, at_most=True)).passes == 1370 + 24
    assert look(small, passes=Passes(("query",), masks=41, at_most=True)).early
    assert look(small, passes=Passes(("reference",), masks=41)).passes == 30 + 110 * 42


@pytest.mark.parametrize(("explain", "loads"), [("query", 140 + 30), ("reference", 140 + 110), ("both", 140 + 140)])
def test_an_image_is_loaded_to_be_embedded_and_again_to_be_explained(small: Bundle, explain: str, loads: int) -> None:
    found = look(small, explain=explain)
    assert found.read == loads * 2000
    assert found.seconds == pytest.approx(1370 / 50 + loads * 0.01)


def test_workers_of_this_machine_share_the_time(small: Bundle) -> None:
    """Elsewhere nobody knows how many there are, and no launcher holds the rows."""
    alone = look(small)
    assert look(small, workers=4).seconds == pytest.approx(alone.seconds / 4)
    elsewhere = look(small, runner="spark", workers=4)
    assert elsewhere.seconds == pytest.approx(alone.seconds)
    assert elsewhere.launcher_memory is None


def test_slopes_have_their_own_speed(small: Bundle) -> None:
    passes = Passes(("query",), masks=41, gradient_passes=5, null_gradient_passes=5)
    found = look(small, passes=passes, probe=replace(PROBE, gradient_passes_per_second=10.0, seconds_per_image=0.0))
    assert found.gradient_passes == 30 * 5 + 110 * 5
    assert found.passes == 1370 + found.gradient_passes
    assert found.seconds == pytest.approx(1370 / 50 + 700 / 10)


# a row: 100 bytes, 20 for each of three attributes, 4.6 for each of 28 x 28 cells
ROW = 100 + 3 * 20 + 4.6 * 784
EXPLANATION_HELD = 10_000 + 5 * 4 * 784
"""What the launcher holds of an explanation: 10 kB, and five copies of its float32 map."""


def test_bytes_by_hand(small: Bundle) -> None:
    """110 rows in eight files, 140 images; in memory as many pairs of 6 kB, an embedding and an explanation each."""
    found = look(small)
    assert found.written == pytest.approx(8 * (28_000 + 3_000) + 110 * ROW + 140 * 100, abs=1)
    assert found.launcher_memory == 110 * (6_000 + 5 * 20 + EXPLANATION_HELD)


@pytest.mark.parametrize(
    ("changes", "written", "held"),
    [
        ({"map_size": (56, 28)}, 110 * 4.6 * 784, 110 * 5 * 4 * 784),
        ({"methods": ("rise", "lime")}, 110 * ROW, 110 * EXPLANATION_HELD),
        ({"explain": "both"}, 110 * ROW, 110 * (5 * 20 + EXPLANATION_HELD)),
        ({"top": 3}, 0, 0),  # as many as there are
        ({"top": 1}, -110 * 2 * 20, 0),
        ({"keep": ("a", "b")}, 110 * 2 * 20, 0),
        ({"store_embeddings": True}, 140 * 4 * 5, 0),
        ({"shards": 100}, 92 * (28_000 + 3_000), 0),
        ({"perturb": "both", "reference_masks": 30}, 0, 110 * 5 * 20),  # the mean of a reference's masked versions
    ],
    ids=str,
)
def test_what_each_option_adds(small: Bundle, changes: dict[str, Any], written: float, held: int) -> None:
    plain, found = look(small), look(small, **changes)
    assert found.written - plain.written == pytest.approx(written, abs=1)
    assert plain.launcher_memory is not None
    assert found.launcher_memory == plain.launcher_memory + held


def test_a_file_has_a_row_group_for_every_2000_rows(small: Bundle) -> None:
    expected = 3 * 28_000 + 4001 * ROW + 3_000
    assert written_bytes(options(shards=1), small, 4001, 0) == pytest.approx(expected, abs=1)


@pytest.mark.engine
def test_tables_are_about_as_large_as_was_said(drawn: Path, tmp_path: Path) -> None:
    """At maps of the frame's own size: smaller frames repeat pixels, which compresses."""
    made = small_bundle(tmp_path / "bundle", attributes=False, size=(48, 64))
    more = ["--catalogue", str(drawn / "catalogue.csv"), "--map-size", "48x64", "--shards", "1"]
    more += ["--max-failure-rate", "1"]
    assert audit(drawn / "pairs.csv", tmp_path / "bundle", tmp_path / "out", "r", *more) == 0
    files = [next((tmp_path / "out" / table).rglob("*.parquet")) for table in ("explanations", "images")]
    rows = [pq.ParquetFile(file).metadata.num_rows for file in files]
    assert min(rows) > 10
    said = written_bytes(options(map_size=(48, 64), shards=1), made, *rows)
    assert said / 1.25 < sum(file.stat().st_size for file in files) < said * 1.25


def test_the_text(small: Bundle) -> None:
    found, graph = look(small, workers=2), ("Pairs", "  Files")
    assert list(lines(found, graph)) == [
        "rows       263, 3 of them without a query that can be read",
        "queries    30 of 60 are explained (50.00%), by category",
        "pairs      110 of 260 are explained (42.31%)",
        "           stratum  queries  sampled     rate",
        "           shoes         40       10   25.00%",
        "           bags          20       20  100.00%",
        "passes     at most 1,370 forward passes",
        "speed      50 passes a second and worker; 10.0 ms to load an image of 2.0 KiB",
        "time       about a minute with 2 workers",
        "read       about 332 KiB of images",
        f"written    about {in_words(found.written)} of tables",
        "memory     at most 256 MiB a worker beyond its libraries; about "
        f"{in_words(found.launcher_memory or 0)} for all pairs in the launcher",
        "steps",
        "  Pairs",
        "    Files",
    ]
    said: list[str] = []
    print_forecast(found, said.append, graph)
    assert said == list(lines(found, graph))


def test_the_text_of_a_run_elsewhere_says_whose_speed_it_is(small: Bundle) -> None:
    unread = replace(PROBE, images_loaded=0, bytes_per_image=0, seconds_per_image=0.0, gradient_passes_per_second=7.0)
    passes = Passes(("query",), masks=41, gradient_passes=5, at_most=True)
    made = design(("all", 1000, 1000, 20_000, 20_000), column=None)
    text = "\n".join(lines(look(small, made, runner="spark", probe=unread, passes=passes, unreadable=0)))
    assert "this machine's, not that of spark's workers" in text
    assert "of one worker" in text
    assert "none of 8 images could be loaded" in text
    assert "100,000 of them of the gradient; maps that converge early take fewer" in text
    assert "stratum" not in text
    assert "all 1,000 are explained" in text
    assert "launcher" not in text
    assert "about 4.3 h" in text  # 62,000 passes at 50, 100,000 slopes at 7


@pytest.mark.parametrize(("count", "more"), [(12, None), (13, "and 1 more"), (1500, "and 1,488 more")])
def test_twelve_strata_are_named(small: Bundle, count: int, more: str | None) -> None:
    made = design(*((f"s{at:04d}", 10 + at, 1, 20, 2) for at in range(count)))
    text = list(lines(look(small, made)))
    named = [line.split()[0] for line in text if line.strip().startswith("s0") or line.strip().startswith("s1")]
    assert named == [f"s{at:04d}" for at in range(count - 1, count - 13, -1)]  # the largest first
    assert [line.strip() for line in text if "more" in line] == ([more] if more else [])


def test_names_of_strata_cannot_act_on_a_terminal(small: Bundle) -> None:
    made = design(
        ("\x1b[2Jshoes", 40, 10, 200, 50),
        ("靴靴", 30, 30, 30, 30),
        ("\u202e" * 30, 20, 20, 60, 60),
        column="k\x1b]0;\n",
    )
    text = list(lines(look(small, made)))
    assert all(character.isprintable() for line in text for character in line)
    assert "by k\\x1b]0;\\n" in text[1]
    table = [line.removeprefix(" " * 11) for line in text if line.startswith(" " * 11)]
    names = ["stratum".ljust(40), "\\x1b[2Jshoes".ljust(40), "靴靴" + " " * 36, "\\u202e" * 6 + "\\u2…"]
    assert table == [
        f"{names[0]}  queries  sampled     rate",
        f"{names[1]}       40       10   25.00%",
        f"{names[2]}       30       30  100.00%",  # two characters in four columns of a terminal
        f"{names[3]}       20       20  100.00%",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "about a minute "), (300, "about 5 min "), (6000, "about 1.7 h "), (47.9 * 3600, "about 47.9 h "),
     (84 * 3600, "about 3.5 days ")],
)  # fmt: skip
def test_times_in_words(small: Bundle, seconds: float, words: str) -> None:
    (line,) = (line for line in lines(replace(look(small), seconds=seconds)) if line.startswith("time"))
    assert words in line


@given(st.integers(0, 2**62))
def test_bytes_in_words_are_right_to_two_digits(count: int) -> None:
    number, unit = in_words(count).split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)
    assert float(number.replace(",", "")) * factor == pytest.approx(count, rel=0.05)


def test_bytes_in_words() -> None:
    assert [in_words(count) for count in (0, 1023, 1024, 10 * 1024, 2**20 - 1, 5 * 2**30 // 2)] == [
        "0 B", "1,023 B", "1.0 KiB", "10.0 KiB", "1.0 MiB", "2.5 GiB",
    ]  # fmt: skip


def test_what_fits_is_not_refused(small: Bundle) -> None:
    found = look(small)
    assert found.launcher_memory is not None
    check_resources(found, Resources(found.launcher_memory, found.written))
    check_resources(found, Resources(None, None))
    check_resources(look(small, runner="spark"), Resources(1, None))  # its launcher holds no pairs


@pytest.mark.parametrize(
    ("changes", "limits", "message"),
    [
        ({"rows": 0, "made": design(), "unreadable": 0}, (None, None), "no rows.*--manifest"),
        ({"rows": 3, "made": design()}, (None, None), "none of the 3 rows.*--columns"),
        ({"made": design(("a", 9, 0, 20, 0))}, (None, None), "none of the 9 queries.*--min-queries"),
        (
            {},
            (1_000_000, None),
            r"110 of them take about .*977 KiB are available.*at most \d+\.\d\d%.*--sample.*--runner",
        ),
        ({}, (None, 1000), r"tables will take about .*1,000 B are free at /out.*--out"),
    ],
)
def test_what_cannot_end_well_is_refused(
    small: Bundle, changes: Mapping[str, Any], limits: tuple[int | None, int | None], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_resources(look(small, **changes), Resources(*limits))


def test_the_share_that_is_said_to_fit_does(small: Bundle) -> None:
    with pytest.raises(UsageError) as caught:
        check_resources(look(small, design(("a", 1000, 1000, 8000, 8000))), Resources(50_000_000, None))
    share = float(str(caught.value).partition("at most ")[2].partition("%")[0]) / 100
    assert 0.1 < share < 0.9
    kept = int(1000 * share)
    check_resources(look(small, design(("a", 1000, kept, 8000, 8 * kept))), Resources(50_000_000, None))


def test_limits_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       9 kB\nMemAvailable:   1234 kB\n")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=77 if folder == tmp_path else -1))
    assert resources_here(str(tmp_path / "not" / "there"), meminfo) == Resources(1234 * 1024, 77)
    assert resources_here(f"file://{tmp_path}/x", meminfo).disk == 77
    assert resources_here("s3://bucket/tables", meminfo).disk is None
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert resources_here("s3://bucket/tables", tmp_path / "absent").memory == 3 * 4096
    meminfo.write_text("MemTotal: 9 kB\n")
    assert resources_here("s3://bucket/tables", meminfo).memory == 3 * 4096


def test_the_graph_in_order_with_one_level_within() -> None:
    import apache_beam as beam

    class Inner(beam.PTransform):  # type: ignore[misc]
        def expand(self, rows: Any) -> Any:
            return rows | "Deep/er" >> beam.Map(str) | "Deeper still" >> beam.GroupBy(len)

    ran: list[int] = []

    def build(pipeline: Any) -> None:
        rows = pipeline | "First" >> beam.Create([1]) | "Says" >> beam.Map(ran.append)
        rows | "Outer" >> Inner() | "Last" >> beam.Map(print)

    steps = graph_of(build)
    assert [step for step in steps if not step.startswith(" ")] == ["First", "Says", "Outer", "Last"]
    at = steps.index("Outer")
    assert steps[at + 1 : at + 3] == ["  Deep/er", "  Deeper still"]
    assert steps[at + 3] == "Last"
    assert ran == []


def plan(*more: str) -> Sequence[str]:
    return ["plan", "--manifest", "m.csv", "--bundle", "b", "--out", "o", *more]


def test_the_command_asks_the_launcher_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[AuditOptions, dict[str, Any]]] = []

    def planned(given: AuditOptions, echo: Any, **more: Any) -> None:
        asked.append((given, more))
        echo("rows  3")

    monkeypatch.setattr(launch, "plan", planned)
    monkeypatch.setattr(launch, "run", lambda *_: pytest.fail("an audit ran"))
    assert cli.main([*plan("--sample", "0.1", "--method", "lime"), "--", "--region=x"]) == 0
    ((given, more),) = asked
    assert (given.manifest, given.sample, given.methods, more) == (("m.csv",), 0.1, ("lime",), {"graph": True})
    assert given.beam_args == ("--region=x",)
    assert capsys.readouterr().out == "rows  3\n"


def test_the_command_exits_with_2_where_the_audit_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise UsageError("no room")

    monkeypatch.setattr(launch, "plan", refused)
    assert cli.main(plan()) == 2
    assert "no room" in capsys.readouterr().err
    assert cli.main(plan("--sample", "2")) == 2


def test_a_plan_has_the_options_of_an_audit() -> None:
    audited, given = (
        options_of(cli.build_parser().parse_args([word, *plan("--run-id", "r")[1:]])) for word in ("audit", "plan")
    )
    assert given == audited
    assert isinstance(given, AuditOptions)
