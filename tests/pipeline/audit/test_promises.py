"""The promises of an audit towards hostile input, end to end: every row accounted for, nothing stops, nothing leaks."""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import PIL.Image
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.audits import audit, nothing_in_the_cloud, table, write_csv
from tests.support.hostile import hostile_images, valid_images
from transforms.beam.read_pairs import ReadPairs
from transforms.core.errors import REASONS

pytestmark = pytest.mark.engine

CELLS = st.one_of(
    st.sampled_from(["", "a", "b", "a.jpg", "007", "NA", "../x", "http://x", "::", "1", "-1", "x\ty"]),
    st.text(max_size=5),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.fixed_dictionaries({name: CELLS for name in ("pair_id", "query", "reference", "rank", "condition")}),
        min_size=1,
        max_size=20,
    )
)
def test_every_row_becomes_a_pair_or_a_failure(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """P2, on random manifests with duplicates, blanks and wrong types."""
    kept = [
        {key: value.replace("\r", "").replace("\n", "").replace("\0", "") for key, value in row.items()} for row in rows
    ]
    kept = [row for row in kept if any(row.values())]
    manifest = write_csv(tmp_path / "random.csv", kept or [dict.fromkeys(rows[0], "a")])
    expected = max(len(kept), 1)

    def check(found: list[tuple[str, str]]) -> None:
        ids = [pair_id for kind, pair_id in found if kind == "pair"]
        assert len(found) == expected, found
        assert len(ids) == len(set(ids)), "a pair id twice"

    with beam.Pipeline(FnApiRunner()) as pipeline:
        read = pipeline | "Pairs" >> ReadPairs((str(manifest),))
        pairs = read.pairs | "P" >> beam.Map(lambda pair: ("pair", pair.pair_id))
        failures = read.failures | "F" >> beam.Map(lambda failure: ("failure", failure.reason))
        assert_that((pairs, failures) | beam.Flatten(), check)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of damaged EXIF: pytest overrides our filter
def test_a_thousand_images_of_which_a_third_are_hostile(bundle: Path, tmp_path: Path) -> None:
    """P3: each case fails for its expected reason, all others are explained, the exit code follows the policy."""
    images = tmp_path / "images"
    images.mkdir()
    hostile, valid = list(hostile_images().items()), list(valid_images().items())
    expected: dict[str, str] = {}
    rng = np.random.default_rng(0)
    rows = []
    for number in range(1000):
        path = images / f"{number}.img"
        if number % 10 < 3:
            _, (data, reason) = hostile[(number // 10 * 3 + number % 10) % len(hostile)]
            expected[path.name] = reason
        elif number % 10 == 3:
            data = valid[number // 10 % len(valid)][1]
        else:
            picture = rng.integers(0, 256, (9, 7, 3), np.uint8)
            PIL.Image.fromarray(picture).save(path, "PNG")
            data = path.read_bytes()
        path.write_bytes(data)
        rows.append({"query": f"images/{number // 50 * 50 + 5}.img", "reference": f"images/{number}.img"})
    rows += [{"query": f"images/{name}", "reference": "images/5.img"} for name in sorted(expected)[:20]]
    manifest = write_csv(tmp_path / "pairs.csv", rows)
    assert audit(manifest, bundle, tmp_path / "out", "hostile", "--masks", "8") == 1
    failures = table(tmp_path / "out", "failures", "hostile")
    explained = table(tmp_path / "out", "explanations", "hostile")
    assert len(failures) + len(explained) == len(rows)
    assert len(failures) == len(expected) + 20
    for row in failures:
        sides = [Path(row[side]).name for side in ("query_id", "reference_id")]
        assert row["reason"] in {expected.get(side) for side in sides}, row
    found = Counter(row["reason"] for row in failures if Path(row["query_id"]).name not in expected)
    assert found == Counter(expected.values())
    assert set(found) <= set(REASONS)


SECRET = "hunter2-S3CR3T"
"""A word that stands in every credential of these tests and must stand nowhere afterwards."""


def test_no_secret_leaves(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P11: addresses with passwords, tokens and signatures, against the log, the tables and the messages."""
    nothing_in_the_cloud(monkeypatch)
    addresses = [
        f"https://user:{SECRET}@shop.example/a.jpg",
        f"s3://key:{SECRET}@bucket/a.jpg",
        f"https://shop.example/a.jpg?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}",
        f"gs://bucket/a.jpg?token={SECRET}",
        f"https://account.blob.example/a.jpg?sv=2020&sig={SECRET}",
        f"http://127.0.0.1:9/a.jpg#{SECRET}?access_token={SECRET}",
        f"images/a.jpg?password={SECRET}",
    ]
    rows = [
        {"query": one, "reference": other, "note": f"https://u:{SECRET}@x/?sig={SECRET}"}
        for one in addresses
        for other in addresses
    ]
    manifest = write_csv(tmp_path / "pairs.csv", rows)
    product = {"id": "1", "image": f"a.png?sig={SECRET}", "cdn": f"https://u:{SECRET}@x/a.png?X-Amz-Signature={SECRET}"}
    catalogue = write_csv(tmp_path / "catalogue.csv", [product])
    options = ["--keep", "note", "--allow-http", "--catalogue", str(catalogue)]
    assert audit(manifest, bundle, tmp_path / "out", "secrets", *options) == 1
    assert table(tmp_path / "out", "products", "secrets")
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    assert len(table(tmp_path / "out", "failures", "secrets")) == len(rows)
    for file in (tmp_path / "out").rglob("*.parquet"):
        name = file.parent.parent.name
        assert SECRET not in repr(table(tmp_path / "out", name, "secrets")), name


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    """A recording server on loopback: its port and the paths that were asked of it."""
    asked: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as recording:
        thread = threading.Thread(target=recording.serve_forever, daemon=True)
        thread.start()
        yield recording.server_address[1], asked
        recording.shutdown()
        thread.join()


@pytest.mark.parametrize("http_allowed", [False, True])
def test_no_escape_from_the_manifest(
    bundle: Path, tmp_path: Path, server: tuple[int, list[str]], http_allowed: bool
) -> None:
    """P12: hostile addresses never reach a server on this machine, nor a file outside of the manifest's folder."""
    port, asked = server
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    canary = outside / "canary.png"
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(canary)
    (inside / "link.png").symlink_to(canary)
    (inside / "folder").symlink_to(outside)
    PIL.Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(inside / "good.png")
    hostile = [
        str(canary),
        f"file://{canary}",
        "../outside/canary.png",
        "folder/../../outside/canary.png",
        "%2e%2e/outside/canary.png",
        "link.png",
        "folder/canary.png",
        "/etc/passwd",
        f"simplecache::file://{canary}",
        f"zip://a.png::file://{canary}",
        f"reference://::{canary}",
        f"http://127.0.0.1:{port}/a.png",
        f"http://localhost:{port}/a.png",
        f"http://[::1]:{port}/a.png",
        f"http://[::ffff:127.0.0.1]:{port}/a.png",
        f"http://2130706433:{port}/a.png",
        f"http://0x7f.1:{port}/a.png",
        f"http://0.0.0.0:{port}/a.png",
        f"HTTP://LOCALHOST:{port}/a.png",
        f"https://127.0.0.1:{port}/a.png",
        f"ftp://127.0.0.1:{port}/a.png",
        f"memory://{canary}",
        f"local://{canary}",
        f"\\\\127.0.0.1@{port}\\a.png",
        "a\tb.png",
        "/proc/self/environ",
        "/dev/zero",
    ]
    rows = [{"query": "good.png", "reference": address} for address in hostile]
    rows += [{"query": address, "reference": "good.png"} for address in hostile]
    manifest = write_csv(inside / "pairs.csv", rows)
    options = ["--allow-http"] if http_allowed else []
    assert audit(manifest, bundle, tmp_path / "out", "hostile", *options) == 1
    assert asked == []
    assert table(tmp_path / "out", "explanations", "hostile") == []
    failures = table(tmp_path / "out", "failures", "hostile")
    assert len(failures) == len(rows)
    assert {row["reason"] for row in failures} <= {"address_refused", "not_found", "bad_row"}
