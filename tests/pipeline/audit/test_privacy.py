"""What an audit writes about what it read: no credentials anywhere, and nothing personal unasked."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.audit.options import AuditOptions
from tests.support.audits import audit, nothing_in_the_cloud, table, write_csv
from transforms import tables

SECRET = "hunter2-S3CR3T"
"""A word that stands in every credential here, and must stand nowhere afterwards."""
PERSON = "Erika Mustermann"
"""Stands in columns that nobody asked for."""
SIGNED = f"?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}"


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (18, 14, 3), np.uint8)).save(path, "PNG")


@dataclass(frozen=True)
class Audited:
    """An audit of rows with secrets: its folder, its options, its exit code and what it said."""

    out: Path
    options: list[str]
    code: int
    said: str


def addresses_with_secrets() -> list[str]:
    return [
        f"https://user:{SECRET}@shop.example/a.png",
        f"https://shop.example/a.png{SIGNED}",
        f"s3://key:{SECRET}@bucket/a.png",
        f"gs://bucket/a.png?token={SECRET}",
        f"images/missing.png{SIGNED}",
        f"images/..{SIGNED}",
        f"ftp://user:{SECRET}@shop.example/a.png",
    ]


@pytest.fixture(scope="module")
def audited(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """An audit whose every input holds a secret that it may hold, run once for all tests of this file."""
    folder = tmp_path_factory.mktemp("audited")
    for number in range(4):
        picture(folder / "images" / f"{number}.png", number)
    odd = folder / "images" / f"4.png{SIGNED}"  # an image whose very name is a signed address, and that can be read
    picture(folder / "images" / "odd.png", 4)
    (folder / "images" / "odd.png").rename(odd)
    PIL.Image.fromarray(np.ones((18, 14), np.uint8)).save(folder / "labels.png")
    plain: dict[str, Any] = {"customer": PERSON, "note": f"https://u:{SECRET}@x/?sig={SECRET}", "served_model": "m"}
    rows = [
        {**plain, "query_id": str(query), "query": f"images/{query}.png", "reference_id": "3", "group": group}
        for query, group in enumerate(["shoes", f"https://u:{SECRET}@shop.example/hats", PERSON])
    ]
    rows += [
        {**plain, "query_id": "0", "query": "images/0.png", "reference_id": address, "group": "shoes"}
        for address in addresses_with_secrets()
    ]
    rows += [
        {**plain, "query_id": "", "query": address, "reference_id": "3", "group": f"sig={SECRET}"}
        for address in [*addresses_with_secrets(), f"images/4.png{SIGNED}"]
    ]
    rows.append({**plain, "query_id": "1", "query": "images/1.png", "reference_id": "", "group": "shoes"})
    manifest = write_csv(folder / "pairs.csv", [{"pair_id": "", **row, "rank": ""} for row in rows])
    with manifest.open("a") as stream:
        stream.write(f"https://u:{SECRET}@x/,too,few\n")
    boxes = json.dumps({f"https://u:{SECRET}@x/logo.png": [[0, 0, 5, 5]]})
    products = [
        {"id": str(number), "image": f"images/{number}.png", "colour": "red", "cdn": cdn, "regions": regions}
        for number, (cdn, regions) in enumerate(
            [
                (f"https://u:{SECRET}@x/a.png", "labels.png"),
                (f"a.png{SIGNED}", f"labels.png{SIGNED}"),
                ("", ""),
                ("", f"s3://key:{SECRET}@bucket/labels.png"),
            ]
        )
    ]
    products.append({**products[2], "id": "9", "image": f"https://u:{SECRET}@x/9.png{SIGNED}"})
    products = [{**product, "boxes": boxes if product["id"] == "2" else ""} for product in products]
    catalogue = write_csv(folder / "catalogue.csv", products)
    (folder / "legend.json").write_text(json.dumps({"regions": {"body": 1}}))
    out = folder / f"out?sig={SECRET}"
    options = ["--catalogue", str(catalogue), "--keep", "note", "--stratify", "group", "--allow-http"]
    options += [
        "--legend",
        str(folder / "legend.json"),
        "--image-root",
        f"{folder}/token={SECRET}",
        "--period",
        f"sig={SECRET}",
    ]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", said)
        patch.setattr("sys.stderr", said)
        nothing_in_the_cloud(patch)
        code = audit(manifest, bundle, out, "r1", *options)
    return Audited(out, options, code, said.getvalue())


def values_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below ``folder`` with all that it holds as text: cells, schema, metadata, and the bytes themselves."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            raw = path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                parquet = pq.ParquetFile(path)
                raw += repr(parquet.read().to_pylist()) + repr(parquet.metadata.metadata) + str(parquet.schema_arrow)
            yield path, raw


@pytest.mark.engine
def test_no_credential_is_in_any_file_or_message(audited: Audited) -> None:
    """P11: addresses with user, password, signature or token, in every place where an input has an address."""
    assert audited.code == 1, audited.said  # more pairs fail than may
    assert SECRET not in audited.said
    found = dict(values_of(audited.out))
    assert {path.parent.parent.name for path in found} >= {"runs", "strata", "explanations", "failures", "products"}
    for path, text in found.items():
        assert SECRET not in text, path
        assert SECRET not in str(path.relative_to(audited.out))


@pytest.mark.engine
def test_the_audit_had_something_to_hide(audited: Audited) -> None:
    """Otherwise its silence would say nothing: rows were explained, rows failed, and addresses stand there masked."""
    explained = table(audited.out, "explanations", "r1")
    failed = table(audited.out, "failures", "r1")
    assert {row["query_id"] for row in explained} > {"0", "1", "2"}
    assert len(failed) >= 2 * len(addresses_with_secrets())
    assert any(row["query"].startswith(f"{audited.out.parent}/images/4.png") for row in explained)
    assert {row["reason"] for row in failed} >= {"address_refused", "bad_row", "unknown_product"}
    (run,) = table(audited.out, "runs", "r1")
    configuration = json.loads(run["configuration"])
    assert configuration["out"].endswith("/out?sig=***")
    assert configuration["image_roots"] == [f"{audited.out.parent}/token=***"]
    assert {row["image"] for row in table(audited.out, "products", "r1")} >= {f"{audited.out.parent}/images/0.png"}
    assert any(row["regions_failure"] for row in explained)
    assert any(region["name"].startswith("https://") for row in explained for region in row["region_shares"] or ())
    assert run["period"] == "sig=***"


@pytest.mark.engine
def test_manifest_columns_stay_where_they_are(audited: Audited) -> None:
    """A column goes into the tables by --keep or --stratify alone."""
    for path, text in values_of(audited.out):
        name = path.parent.parent.name
        if name not in ("strata", "explanations", "failures"):
            assert PERSON not in text, path
    for row in table(audited.out, "explanations", "r1"):
        assert json.loads(row["extra"]).keys() == {"note"}
        assert PERSON not in repr({**row, "stratum": ""})
    for row in table(audited.out, "failures", "r1"):
        assert PERSON not in repr({**row, "stratum": ""})


@pytest.mark.engine
def test_the_values_of_a_stratifying_column_are_stored(audited: Audited) -> None:
    """What --stratify names goes into the tables, without credentials: a column of persons would store persons."""
    names = {row["stratum"] for row in table(audited.out, "strata", "r1")}
    assert names >= {"shoes", PERSON}
    assert any(name.startswith("https://shop.example/hats") for name in names)
    assert {row["stratum"] for row in table(audited.out, "explanations", "r1")} <= names


@pytest.mark.engine
def test_no_embedding_is_stored_unasked(audited: Audited) -> None:
    rows = table(audited.out, "images", "r1")
    assert rows
    assert all(row["embedding"] is None for row in rows)
    numbers = {"map", "top", "region_shares", "thresholds", "curve", "embedding"}
    for name, schema in tables.SCHEMAS.items():
        lists = {field.name for field in schema if str(field.type).startswith("list")}
        assert lists <= numbers | {"explainer_ids", "attributes", "rows"}, f"{name}: a vector that nobody looked at"


@pytest.mark.engine
def test_embeddings_are_stored_where_they_are_asked_for(audited: Audited, bundle: Path, tmp_path: Path) -> None:
    manifest = write_csv(tmp_path / "pairs.csv", [{"query": "0.png", "reference": "1.png", "customer": PERSON}])
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    assert audit(manifest, bundle, tmp_path / "out", "r1", "--store-embeddings", "--masks", "8") == 0
    assert all(row["embedding"] for row in table(tmp_path / "out", "images", "r1"))
    assert all(PERSON not in text for _, text in values_of(tmp_path / "out"))
    assert all(row["extra"] is None for row in table(tmp_path / "out", "explanations", "r1"))


@pytest.mark.engine
def test_a_product_of_that_audit_can_be_erased(audited: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    """The last test of the file that reads the audit: an erasure of a real run, by an address with its password."""
    address = next(row["query_id"] for row in table(audited.out, "explanations", "r1") if "4.png" in row["query_id"])
    explained = len(table(audited.out, "explanations", "r1"))
    images = len(table(audited.out, "images", "r1"))
    assert cli.main(["erase", str(audited.out), "--id", f"images/4.png{SIGNED}", "--id", "2"]) == 0
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert len(table(audited.out, "explanations", "r1")) == explained - 2
    assert len(table(audited.out, "images", "r1")) == images - 2
    for path, text in values_of(audited.out):
        assert address not in text, path
        assert not re.search(r"images/2\.png", text), path


SECRETS = {
    "manifest": (f"https://u:{SECRET}@x/pairs.csv{SIGNED}",),
    "bundle": f"s3://key:{SECRET}@bucket/bundle",
    "out": f"gs://bucket/out?token={SECRET}",
    "catalogue": f"https://x/catalogue.csv{SIGNED}",
    "legend": f"https://u:{SECRET}@x/legend.json",
    "image_roots": (f"https://u:{SECRET}@x/", f"/images?sig={SECRET}"),
    "period": f"https://u:{SECRET}@x/2026-10",
    "stratify": f"token={SECRET}",
    "keep": (f"https://u:{SECRET}@x/",),
    "columns": {"query": f"https://u:{SECRET}@x/", "reference": f"sig={SECRET}"},
}


@pytest.mark.parametrize("name", SECRETS)
def test_the_record_of_an_option_has_no_credential(name: str) -> None:
    given: dict[str, Any] = {"manifest": ("m.csv",), "bundle": "b", "out": "o", "run_id": "r1", name: SECRETS[name]}
    assert SECRET not in json.dumps(AuditOptions(**given).recorded())


def test_wrong_addresses_on_the_command_line_are_not_echoed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = str(write_csv(tmp_path / "pairs.csv", [{"query": "a", "reference": "b"}]))
    secret = f"{tmp_path}/none{SIGNED}"
    for given in (
        ["audit", "--manifest", secret, "--bundle", "b", "--out", "o"],
        ["audit", "--manifest", manifest, "--bundle", secret, "--out", "o"],
        ["sql", secret, "SELECT 1"],
        ["erase", secret, "--id", "a"],
        ["erase", str(tmp_path), "--ids", secret],
        ["evaluate", secret, "--bundle", secret],
    ):
        assert cli.main(given) == 2
    said = capfd.readouterr()
    assert "none" in said.err
    assert SECRET not in said.out + said.err
