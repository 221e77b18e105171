"""Which legend an audit reads: the one that is named, or that of label images, where there is one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import sources
from pipeline.audit.options import AuditOptions
from transforms.core.errors import UsageError
from transforms.inputs.region_legend import Legend
from transforms.storage import drivers

BODY = {"regions": {"body": 1}}
UNRELATED = {"type": "FeatureCollection", "features": []}


def legend_of(catalogue: str | None, legend: str | None = None) -> tuple[Legend | None, list[str]]:
    """The legend that workers of an audit get, None where they read no regions; and what was said."""
    said: list[str] = []
    options = AuditOptions(("m.csv",), "b", "/out", "r", catalogue=catalogue, legend=legend)
    reader = sources.regions(options, ("/m.csv",), said.append)
    return (None if reader is None else reader.legend), said


def catalogue(folder: Path, *columns: str, beside: Any = None) -> str:
    """A catalogue with these columns, and ``beside`` as the regions.json of its folder."""
    path = folder / "catalogue.csv"
    path.write_text(",".join(["id", "image", *columns]) + "\n")
    if beside is not None:
        (folder / "regions.json").write_text(json.dumps(beside))
    return str(path)


def test_no_regions_are_read_without_a_column_of_them(tmp_path: Path) -> None:
    assert legend_of(None) == (None, [])
    assert legend_of(catalogue(tmp_path, "kind", beside=UNRELATED)) == (None, [])


@pytest.mark.parametrize("columns", [("regions",), ("regions", "boxes")])
def test_label_images_have_the_legend_beside_the_catalogue(tmp_path: Path, columns: tuple[str, ...]) -> None:
    assert legend_of(catalogue(tmp_path, *columns, beside=BODY)) == (Legend({"body": 1}), [])
    with pytest.raises(UsageError, match=r"regions\.json is no legend"):
        legend_of(catalogue(tmp_path, *columns, beside=UNRELATED))


def test_a_missing_legend_of_label_images_is_said(tmp_path: Path) -> None:
    found, said = legend_of(catalogue(tmp_path, "regions"))
    assert found == Legend({})
    assert said == [f"regions: no legend at {tmp_path}/regions.json, so labels have no names; --legend gives one"]


@pytest.mark.parametrize("beside", [None, BODY, UNRELATED])
def test_boxes_need_no_legend_and_the_file_beside_them_may_be_anyones(tmp_path: Path, beside: Any) -> None:
    assert legend_of(catalogue(tmp_path, "boxes", beside=beside)) == (Legend({}), [])


@pytest.mark.parametrize("column", ["regions", "boxes"])
def test_a_legend_that_is_named_is_read(tmp_path: Path, column: str) -> None:
    named = tmp_path / "named.json"
    named.write_text(json.dumps({**BODY, "columns": {"colour": ["body"]}}))
    expected = Legend({"body": 1}, {"colour": ("body",)})
    assert legend_of(catalogue(tmp_path, column, beside=UNRELATED), str(named)) == (expected, [])
    with pytest.raises(UsageError, match=r"nothing lies at .*other\.json"):
        legend_of(catalogue(tmp_path, column, beside=BODY), str(tmp_path / "other.json"))


def test_a_legend_without_regions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--legend names .* the catalogue has no column 'regions' or 'boxes'$"):
        legend_of(catalogue(tmp_path, "kind"), "named.json")
    with pytest.raises(UsageError, match=r"^--legend names .* there is no catalogue: --catalogue gives one$"):
        legend_of(None, "named.json")


class GetObjectOnly:
    """An S3 bucket with a catalogue whose reader may not list it: a missing file is denied, too."""

    def info(self, path: str) -> dict[str, Any]:
        raise PermissionError("Forbidden topsecretkey")

    def open(self, path: str, mode: str) -> io.BytesIO:
        if path != "bucket/catalogue.csv":
            raise PermissionError("Forbidden topsecretkey")
        return io.BytesIO(b"id,image,regions\n1,1.png,1-labels.png\n")


def test_a_legend_that_a_bucket_denies_is_none_unless_it_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "filesystem", lambda address: (GetObjectOnly(), address.removeprefix("s3://")))
    found, (line,) = legend_of("s3://bucket/catalogue.csv")
    assert found == Legend({})
    assert line.startswith("regions: no legend was found, so labels have no names; --legend gives one. Denied: ")
    assert "bucket s3://bucket refuses to read s3://bucket/regions.json" in line
    assert "topsecretkey" not in line
    with pytest.raises(UsageError, match=r"refuses to read s3://bucket/regions\.json"):
        legend_of("s3://bucket/catalogue.csv", "s3://bucket/regions.json")
