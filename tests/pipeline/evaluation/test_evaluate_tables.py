"""What an evaluation reads and writes: accounting, failures, what does not exist, is refused, is secret."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.results import sql
from tests.support.audits import Row, audit, read_csv, write_csv
from tests.support.evaluations import (
    METHODS,
    QUERIES,
    REFERENCES,
    Audited,
    Shop,
    evaluate,
    evaluation,
    make_bundle,
    make_shop,
    metrics,
)
from transforms import storage, tables
from transforms.core.statistics.sampling import kept
from transforms.tables import runs

pytestmark = pytest.mark.engine

TIMES = ("started", "finished", "configuration", "versions", "evaluation_id")
EXPLANATIONS = 2 * QUERIES * REFERENCES


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Four queries with three references each, two methods; not to be changed but by evaluations of their own ids."""
    folder = tmp_path_factory.mktemp("audited")
    shop = make_shop(folder / "shop")
    bundle = make_bundle(folder / "bundle")
    assert audit(shop.folder / "pairs.csv", bundle, folder / "out", "one", *METHODS) == 0
    return Audited(shop, bundle, folder / "out", "cosine")


@pytest.fixture
def own(audited: Audited, tmp_path: Path) -> Audited:
    """A copy of everything that a test may change."""
    shop = Shop(tmp_path / "shop")
    shutil.copytree(audited.shop.folder, shop.folder)
    copy = Audited(shop, audited.bundle, tmp_path / "out", audited.function)
    shutil.copytree(audited.out / "runs", copy.out / "runs")
    shutil.copytree(audited.out / "explanations", copy.out / "explanations")

    def moved(row: Row) -> Row:
        return {**row, **{name: str(shop.folder / Path(row[name]).name) for name in ("query", "reference")}}

    rewrite(copy.out, moved)
    return copy


def rewrite(out: Path, change: Callable[[Row], Row]) -> None:
    """Other rows in the table of explanations, whatever its schema forbids."""
    schema = pa.schema([field.with_nullable(True) for field in tables.SCHEMAS["explanations"]])
    for file in (out / "explanations" / "run_id=one").glob("*.parquet"):
        rows = [change(row) for row in pq.read_table(file, partitioning=None).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, write_page_checksum=True)


def configure(out: Path, change: dict[str, Any] | str) -> None:
    """Another configuration in the run's row: whole, or some of its entries."""
    (file,) = (out / "runs" / "run_id=one").glob("*.parquet")
    content = pq.read_table(file, partitioning=None)
    before = content.column("configuration")[0].as_py()
    text = change if isinstance(change, str) else json.dumps(json.loads(before) | change)
    at = content.schema.names.index("configuration")
    pq.write_table(content.set_column(at, content.schema.field(at), pa.array([text])), file)


def bare(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in TIMES}


def view(out: Path, query: str) -> list[Row]:
    rows: list[Row] = sql.query(str(out), query).to_pylist()
    return rows


# accounting


def test_whole_queries_are_sampled_and_every_explanation_is_accounted_for(audited: Audited) -> None:
    queries = {row["query_id"] for row in audited.explanations().values()}
    measured: dict[float, set[str]] = {}
    for rate in (0.3, 0.6):
        name = f"rate{int(10 * rate)}"
        more = ("--metrics", "stranger", "--sample", str(rate), "--sampling-seed", "1")
        assert audited.evaluate(name, *more) == 0
        rows, row = metrics(audited.out, name), evaluation(audited.out, name)
        measured[rate] = {one["query_id"] for one in rows}
        assert measured[rate] == {query for query in queries if kept(query, rate, 1)}
        per_query = EXPLANATIONS // QUERIES
        assert row["explanations_read"] == EXPLANATIONS
        assert row["explanations_measured"] == per_query * len(measured[rate]) == len(rows) == row["measurements"]
        assert row["explanations_not_sampled"] == EXPLANATIONS - row["explanations_measured"]
        assert (row["images"], row["sample_rate"], row["sampling_seed"]) == (len(measured[rate]), rate, 1)
        assert json.loads(row["configuration"])["sample"] == rate
    assert set() < measured[0.3] < measured[0.6] < queries


EVERYTHING = (
    "--metrics",
    "insertion,stranger,noise,seeds,shuffled",
    "--controls",
    "random,stranger",
    "--fills",
    "#ffffff,mean",
)


@pytest.fixture(scope="module")
def everything(audited: Audited) -> list[Row]:
    assert audited.evaluate("everything", *EVERYTHING) == 0
    return metrics(audited.out, "everything")


def test_the_number_of_rows_follows_from_the_options(audited: Audited, everything: list[Row]) -> None:
    pairs = QUERIES * REFERENCES
    expected: Counter[tuple[str, str, str | None]] = Counter(
        {
            (metric, method, fill): pairs
            for metric in ("insertion", "insertion_raw")
            for method in ("rise", "sliding_window", "random", "stranger_rise", "stranger_sliding_window")
            for fill in ("#ffffff", "mean")
        }
    )
    again: list[tuple[str, str, str | None]]
    again = [(metric, name, None) for metric in ("stranger", "noise", "shuffled") for name in METHODS[1].split(",")]
    expected |= Counter(dict.fromkeys(again, pairs))
    expected["seeds", "rise", None] = pairs
    assert Counter((row["metric"], row["method"], row["fill"]) for row in everything) == expected
    assert evaluation(audited.out, "everything")["measurements"] == len(everything) == expected.total()
    assert {row["method"] for row in everything if not row["control"]} == {"rise", "sliding_window"}
    # a query that shares its references with all others has none to be shuffled with
    assert not any(row["reason"] or row["value"] is None for row in everything if row["metric"] != "shuffled")
    assert any(row["value"] is not None for row in everything if row["metric"] == "shuffled")


def test_workers_shards_and_order_change_no_row(own: Audited, everything: list[Row]) -> None:
    files = sorted((own.out / "explanations" / "run_id=one").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]
    random.Random(3).shuffle(rows)
    for file in files:
        file.unlink()
    for shard in range(2):
        content = pa.Table.from_pylist(rows[shard::2], schema=tables.SCHEMAS["explanations"])
        pq.write_table(content, files[0].with_name(tables.part(shard)), write_page_checksum=True)
    assert own.evaluate("other", *EVERYTHING, "--workers", "2", "--batch", "7", "--threads", "1", "--shards", "5") == 0
    found = sorted((bare(row) for row in metrics(own.out, "other")), key=repr)
    assert found == sorted((bare(row) for row in everything), key=repr)


def test_chunks_of_an_image_s_explanations_change_no_row(
    own: Audited, everything: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.beam.evaluate_queries.CHUNK", 2)
    assert own.evaluate("chunks", *EVERYTHING) == 0
    found = sorted((bare(row) for row in metrics(own.out, "chunks")), key=repr)
    assert found == sorted((bare(row) for row in everything), key=repr)


# failures

TAKEN = ("--metrics", "insertion,deletion,noise,seeds,stranger", "--controls", "centre,random,stranger")


def test_what_cannot_be_measured_is_a_row_and_harms_no_other(own: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    """Of four queries one has a reference that is gone, one a row without a map, one is damaged."""
    explained = list(own.explanations().values())
    pairs = {(row["query_id"], row["reference_id"]): row["pair_id"] for row in explained}
    # the first pair of its query: what serves all pairs must not hang on it
    first = min((row for row in explained if row["query_id"] == "q2"), key=lambda row: row["pair_id"])
    Path(first["reference"]).unlink()
    gone = {row["pair_id"] for row in explained if row["reference"] == first["reference"]}
    (own.shop.folder / "3.png").write_bytes((own.shop.folder / "3.png").read_bytes()[:200])
    damaged = {row["pair_id"] for row in explained if "3.png" in row["query"] or "3.png" in row["reference"]}
    reference = next(one for query, one in pairs if query == "q1" and pairs[query, one] not in gone | damaged)
    hollow = pairs["q1", reference]

    def without_map(row: Row) -> Row:
        return {**row, "map": None} if (row["pair_id"], row["method"]) == (hollow, "rise") else row

    rewrite(own.out, without_map)
    assert own.evaluate("broken", *TAKEN, "--max-failure-rate", "0") == 1
    assert "could not be taken, more than --max-failure-rate 0.0%" in capsys.readouterr().out
    assert own.evaluate("allowed", *TAKEN, "--max-failure-rate", "0.99") == 0
    whole = {"insertion", "insertion_raw", "deletion", "deletion_raw", "noise", "seeds", "stranger"}
    rows = metrics(own.out, "broken")
    assert {row["metric"] for row in rows} == whole
    for row in rows:
        assert (row["value"] is None) == (row["reason"] is not None) == (row["message"] is not None)
        curved = row["metric"].split("_")[0] in ("insertion", "deletion")
        if row["pair_id"] in damaged:
            assert row["reason"] == "damaged_image"
        elif row["pair_id"] in gone:
            # what is not known to be the audited pair is measured by nothing
            assert row["reason"] == "not_found"
        elif row["pair_id"] == hollow and row["method"] == "rise" and not row["control"]:
            assert row["reason"] == "no_map"
        else:
            assert row["reason"] is None, (row["metric"], row["method"], curved)


def test_an_image_that_cannot_be_read_leaves_out_no_explanation(own: Audited, everything: list[Row]) -> None:
    (own.shop.folder / "2.png").unlink()
    assert own.evaluate("unread", *EVERYTHING, "--max-failure-rate", "1") == 0
    names = ("pair_id", "side", "metric", "method", "control", "fill", "map", "explainer_id")
    found = metrics(own.out, "unread")

    def places(rows: list[Row]) -> Counter[tuple[Any, ...]]:
        return Counter(tuple(row[name] for name in names) for row in rows if not row["control"])

    assert places(found) == places(everything)
    assert {row["reason"] for row in found if row["query_id"] == "q2"} == {"not_found"}
    assert {row["reason"] for row in found if row["query_id"] != "q2"} == {None}


def test_nothing_is_measured_on_an_image_that_was_replaced(own: Audited) -> None:
    """A stored map and another image's agree with nothing, and so an explainer that looks at no network would pass."""
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(own.shop.folder / "2.png")
    rows = [{"id": f"q{n}", "image": f"{n}.png", "regions": "labels.png"} for n in range(QUERIES)]
    write_csv(own.shop.folder / "products.csv", rows)
    labels = np.zeros((30, 40), np.uint8)
    labels[:10] = 1
    Image.fromarray(labels).save(own.shop.folder / "labels.png")
    (own.shop.folder / "regions.json").write_text('{"regions": {"shoe": 1}}')
    catalogue = ("--catalogue", str(own.shop.folder / "products.csv"), "--region", "shoe")
    asked = "insertion,noise,seeds,shuffled,sanity,iou"
    more = (*catalogue, "--metrics", asked, "--controls", "none", "--max-failure-rate", "1", "--max-agreement", "1")
    assert own.evaluate("replaced", *more) == 0
    rows_of = metrics(own.out, "replaced")
    assert {row["metric"] for row in rows_of} == {*asked.split(","), "insertion_raw"}
    assert {row["reason"] for row in rows_of if row["query_id"] != "q2"} == {None}
    assert {(row["metric"], row["reason"]) for row in rows_of if row["query_id"] == "q2"} == {
        (metric, "image_changed") for metric in (*asked.split(","), "insertion_raw")
    }


def test_a_condition_that_the_bundle_does_not_have_fails_its_pair(own: Audited) -> None:
    asked = min(own.explanations())[0]
    rewrite(own.out, lambda row: {**row, "condition": "shade" if row["pair_id"] == asked else None})
    assert own.evaluate("condition", "--metrics", "insertion,noise", "--max-failure-rate", "1") == 0
    for row in metrics(own.out, "condition"):
        assert row["reason"] == ("unknown_condition" if row["pair_id"] == asked else None)


def test_a_shuffled_reference_is_another(own: Audited, tmp_path: Path) -> None:
    """Of queries that share their reference, another's is the same: nothing was changed, and nothing is measured."""
    rows = [{**row, "reference": "9.png", "reference_id": "r9"} for row in read_csv(own.shop.folder / "pairs.csv")]
    write_csv(own.shop.folder / "shared.csv", rows[::REFERENCES])
    assert audit(own.shop.folder / "shared.csv", own.bundle, tmp_path / "shared", "one") == 0
    assert evaluate(tmp_path / "shared", own.bundle, "x", *own.shop.root(), "--metrics", "shuffled") in (1, 2)
    if (tmp_path / "shared" / "metrics").exists():
        assert {row["value"] for row in metrics(tmp_path / "shared", "x")} == {None}


# what does not exist


def kill_before(table_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = storage.publish

    def dies(address: str, data: bytes) -> None:
        if f"/{table_name}/" in address:
            raise RuntimeError("killed")
        publish(address, data)

    monkeypatch.setattr(storage, "publish", dies)


def test_an_unfinished_evaluation_does_not_exist(
    own: Audited, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--metrics", "stranger", "--method", "rise")
    with monkeypatch.context() as patched:
        kill_before("evaluations", patched)
        assert own.evaluate("killed", *small) == 3
    assert len(metrics(own.out, "killed")) == QUERIES * REFERENCES
    assert view(own.out, "SELECT count(*) AS n FROM metrics") == [{"n": 0}]
    assert view(own.out, "SELECT count(*) AS n FROM evaluations") == [{"n": 0}]
    assert runs.evaluations(str(own.out)) == set()
    capsys.readouterr()
    # two evaluations stand side by side, and none of them twice
    assert own.evaluate("a", *small) == 0
    assert own.evaluate("a-00000", *small) == 0
    assert own.evaluate("a", *small) == 2
    assert "already holds an evaluation a of run one" in capsys.readouterr().err
    counted = "SELECT evaluation_id AS id, count(*) AS n, min(run_id) AS run FROM metrics GROUP BY 1 ORDER BY 1"
    pairs = QUERIES * REFERENCES
    assert view(own.out, counted) == [{"id": one, "n": pairs, "run": "one"} for one in ("a", "a-00000")]
    assert runs.evaluations(str(own.out)) == {("one", "a"), ("one", "a-00000")}
    # without the run's row nothing of it exists
    shutil.rmtree(own.out / "runs" / "run_id=one")
    assert own.evaluate("b", *small) == 2
    assert "holds no complete run" in capsys.readouterr().err


def test_what_an_unfinished_evaluation_left_is_no_part_of_the_next(
    own: Audited, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        kill_before("evaluations", patched)
        assert own.evaluate("again", "--metrics", "stranger", "--shards", "9") == 3
    for file in (own.out / "metrics" / "run_id=one").glob("part-again-0000[01].parquet"):
        file.unlink()  # it died before these
    capsys.readouterr()
    code = own.evaluate("again", "--metrics", "stranger", "--method", "rise", "--shards", "2")
    if code == 0:
        counted = view(own.out, "SELECT count(*) AS n FROM metrics")[0]["n"]
        assert counted == evaluation(own.out, "again")["measurements"] == QUERIES * REFERENCES
    else:
        assert code == 2
        assert "--evaluation-id" in capsys.readouterr().err


def test_two_runs_may_have_evaluations_of_one_name(own: Audited, tmp_path: Path) -> None:
    """Also where their randomised bundles go to one folder."""
    more = ("--metrics", "sanity", "--controls", "none", "--scratch", str(tmp_path / "scratch"), "--max-agreement", "1")
    for run_id in ("one", "two"):
        if run_id == "two":
            for name in ("runs", "explanations"):
                shutil.copytree(own.out / name / "run_id=one", own.out / name / "run_id=two")
        assert own.evaluate("weekly", *more, "--run-id", run_id, "--sample", "0.5") == 0
    assert runs.evaluations(str(own.out)) == {("one", "weekly"), ("two", "weekly")}


def test_an_old_run_can_be_measured(own: Audited) -> None:
    """Schema 1 had neither sides nor rankings nor perturbed references."""
    late = ("side", "perturbed", "reference_fill", "bias", "ranking_id", "top", "condition", "extra")
    for name, columns in (("explanations", late), ("runs", ("ranking_id", "ranking", "sampling_seed"))):
        for file in (own.out / name / "run_id=one").glob("*.parquet"):
            pq.write_table(pq.read_table(file, partitioning=None).drop_columns(list(columns)), file)
    assert own.evaluate("old", "--metrics", "stranger,noise", "--sample", "0.5") == 0
    rows = metrics(own.out, "old")
    assert {row["side"] for row in rows} == {"query"}
    assert all(row["value"] is not None for row in rows)


# what is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--metrics", "quality"), "--metrics must be one or more of insertion, deletion"),
        (("--metrics", "noise,noise"), "--metrics names one twice"),
        (("--controls", "edge"), "--controls must be one or more of random, centre, edges, stranger"),
        (("--controls", "none,random"), "not ['none']"),
        (("--method", "lime"), "run one has no maps of 'lime'; it has those of 'rise', 'sliding_window'"),
        (("--fills", "white"), "a fill is mean, auto, blur or #rrggbb, not 'white'"),
        (("--fills", "mean,mean"), "--fills names one twice"),
        (("--metrics", "iou"), "need --catalogue with a column 'regions'"),
        (("--metrics", "iou", "--catalogue", "SHOP/bare.csv"), "--region"),
        (("--metrics", "iou", "--catalogue", "SHOP/bare.csv", "--region", "shoe"), "has no column 'regions'"),
        (("--metrics", "iou", "--catalogue", "SHOP/full.csv", "--region", "shoe"), "regions.json"),
        (
            ("--metrics", "iou", "--catalogue", "SHOP/full.csv", "--region", "hat", "--legend", "SHOP/legend.json"),
            "'hat' is no region that the legend knows; it tells of the regions 'shoe'",
        ),
        (("--metrics", "removal"), "need --catalogue"),
        (("--metrics", "removal", "--catalogue", "SHOP/bare.csv"), "category"),
        (("--metrics", "average_precision", "--catalogue", "SHOP/none.csv"), "none.csv"),
        (("--sample", "1e-9"), "--sample 1e-09 takes none of them"),
        (("--sample", "0"), "--sample must be above 0 and at most 1"),
        (("--sample", "nan"), "--sample must be above 0 and at most 1"),
        (("--run-id", "two"), "holds no complete run 'two'; it holds one"),
        (("--evaluation-id", "../x"), "--evaluation-id must be a letter"),
        (("--stages", "2", "--metrics", "sanity"), "--stages must be"),
        (("--memory-limit", "1M"), "--memory-limit"),
        (("--max-agreement", "2"), "--max-agreement must be a correlation"),
        (("--runner", "dataflow"), "--runner dataflow: its workers cannot reach"),
        (("--runner", "spark", "--metrics", "sanity"), "sanity needs --scratch"),
        (("--metrics", "seeds", "--method", "sliding_window"), "seeds"),
    ],
)
def test_usage_errors_say_what_to_do(
    own: Audited, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own.shop.folder
    write_csv(folder / "bare.csv", [{"id": "q0", "image": "0.png"}])
    write_csv(folder / "full.csv", [{"id": "q0", "image": "0.png", "regions": "0.png"}])
    (folder / "legend.json").write_text('{"regions": {"shoe": 1}}')
    assert own.evaluate("wrong", *(option.replace("SHOP", str(folder)) for option in options)) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not runs.evaluations(str(own.out))


def test_another_bundle_than_the_audited_one_is_refused(
    audited: Audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(tmp_path / "dot", "dot")
    assert evaluate(audited.out, other, "other", *audited.shop.root()) == 2
    assert "run one is of another similarity model than the bundle" in capsys.readouterr().err


def test_one_query_has_no_stranger(own: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(own.out, lambda row: {**row, "query_id": "alone"})
    for number, options in enumerate(
        (("--metrics", "stranger"), ("--metrics", "shuffled"), ("--controls", "stranger"))
    ):
        assert own.evaluate(f"alone{number}", *options) == 2
        assert "the run has one query only" in capsys.readouterr().err
    assert own.evaluate("alone", "--controls", "centre", "--metrics", "insertion") == 0


@pytest.mark.parametrize(
    "change",
    [
        "not JSON",
        "[1]",
        "[" * 100_000,
        '{"seed": 1' + "0" * 5_000 + "}",
        '{"masks": 1e999}',
        {"methods": 5},
        {"methods": "rise"},
        {"methods": [["rise"]]},
        {"settings": ["rise.cells=4"]},
        {"settings": None},
        {"settings": {"rise.cells": [1]}},
        {"map_size": [28]},
        {"map_size": [28, 28, 3]},
        {"map_size": [28, 2.5]},
        {"map_size": [5, 5]},
        {"map_size": [1_000_000, 1_000_000]},
        {"seed": None},
        {"fill": 5},
        {"explain": "sideways"},
        {"perturb": ["both"]},
        {"reference_masks": {}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_record_that_no_audit_writes_is_refused(
    own: Audited, change: dict[str, Any] | str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(own.out, change)
    code = own.evaluate("tampered", "--metrics", "noise", "--sample", "0.3")
    # whole numbers may be another size than the maps', which is no map to compare with
    assert code in ((1, 2) if change == {"map_size": [5, 5]} else (2,))
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.startswith("whymatch: ")


# what is promised


def test_hostile_ids_print_harmlessly(own: Audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(own.out, lambda row: {**row, "query_id": "\x1b[2J\u202e\r\n| x" + row["query_id"], "reference_id": "\x00"})
    write_csv(own.shop.folder / "products.csv", [{"id": "q0", "image": "0.png", **dict.fromkeys(COLUMNS, "")}])
    catalogue = ("--catalogue", str(own.shop.folder / "products.csv"))
    more = ("--metrics", "stranger,removal", *catalogue, "--report", str(tmp_path / "report"), "--method", "rise")
    assert own.evaluate("hostile", *more) == 1
    said = capsys.readouterr().out
    assert "unknown_product" in said
    said += (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")
    assert not {letter for letter in said if letter != "\n" and not letter.isprintable()}
    assert metrics(own.out, "hostile", metric="stranger")[0]["query_id"].startswith("\x1b[2J")


COLUMNS = ("category", "colour", "pattern")
SECRET = "https://user:hunter2@shop.example/a.jpg?X-Amz-Signature=SIGNATURE&token=t0ken"


def test_secrets_in_addresses_stay_in_no_message(own: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(own.out, lambda row: {**row, "query": SECRET})
    assert own.evaluate("secret", "--metrics", "insertion", "--controls", "none") == 1
    said = capsys.readouterr()
    rows = metrics(own.out, "secret")
    assert {row["reason"] for row in rows} == {"address_refused"}
    everywhere = said.out + said.err + repr(rows) + repr(evaluation(own.out, "secret"))
    assert not [word for word in ("hunter2", "SIGNATURE", "t0ken") if word in everywhere]


def test_images_outside_of_the_roots_are_not_read(own: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> Any:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("transforms.serving.load_image.images.decode", opened)
    (own.shop.folder / "inside").mkdir()
    root = ("--image-root", str(own.shop.folder / "inside"))
    assert evaluate(own.out, own.bundle, "outside", *root, "--metrics", "insertion,noise") == 1
    assert {row["reason"] for row in metrics(own.out, "outside")} == {"address_refused"}
