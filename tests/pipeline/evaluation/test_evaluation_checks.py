"""What is checked before anything is measured: ids, attributes, splits, folders, memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.options import explaining
from pipeline.evaluation import cascade, checks, explainers
from pipeline.evaluation.options import EvaluateOptions
from tests.support.audits import write_csv
from tests.support.models.bundles import small_bundle
from tests.support.models.networks import SIZE
from tests.support.tables.rows import publish, run
from transforms import storage, tables
from transforms.core.errors import UsageError
from transforms.evaluating.settings import CascadeStage
from transforms.serving import bundle as bundles
from transforms.tables import runs


def options(**more: Any) -> EvaluateOptions:
    return EvaluateOptions(**{"tables": "tables", "bundle": "bundle", "evaluation_id": "e1", **more})


def audited(folder: Path, **columns: Any) -> runs.Run:
    publish(str(folder), "runs", "one", [run(explained=1, failed=0) | columns])
    return runs.find(str(folder), "one")


def test_an_id_that_left_rows_behind_is_refused(tmp_path: Path) -> None:
    one = audited(tmp_path)
    checks.check_id(options(tables=str(tmp_path)), one)
    folder = tables.folder(str(tmp_path), "metrics", "one")
    for evaluation in ("e1-00000", "e10", "e"):
        storage.publish(storage.join(folder, tables.part(0, evaluation)), b"")
    checks.check_id(options(tables=str(tmp_path)), one)
    storage.publish(storage.join(folder, tables.part(7, "e1")), b"")
    with pytest.raises(UsageError, match=r"broke off.*--evaluation-id, or remove .*part-e1-\*\.parquet"):
        checks.check_id(options(tables=str(tmp_path)), one)
    storage.publish(storage.join(tables.folder(str(tmp_path), "evaluations", "one"), tables.part(0, "e1")), b"")
    with pytest.raises(UsageError, match="already holds an evaluation e1 of run one"):
        checks.check_id(options(tables=str(tmp_path)), one)


ATTRIBUTES: dict[str, Any] = {"catalogue": "products.csv", "metrics": ("removal", "average_precision")}


@pytest.mark.parametrize("name", ["attribute_model_id", "vocabulary_id"])
def test_a_run_of_other_attributes_is_refused(tmp_path: Path, name: str) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    ids = {one: getattr(bundle, one) for one in runs.IDS}
    assert all(ids.values())
    said: list[str] = []
    for out, columns in (("old", {}), ("same", ids)):
        checks.check_attributes(options(**ATTRIBUTES), audited(tmp_path / out, **columns), bundle, said.append)
    assert not said
    other = audited(tmp_path / "other", **ids | {name: "x0"})
    with pytest.raises(UsageError, match=f"removal and average_precision: run one .* its {name} is x0"):
        checks.check_attributes(options(**ATTRIBUTES), other, bundle, said.append)


def test_another_ranking_is_said(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    said: list[str] = []
    other = audited(tmp_path / "out", ranking_id="r0")
    checks.check_attributes(options(**ATTRIBUTES | {"metrics": ("average_precision",)}), other, bundle, said.append)
    assert not said
    checks.check_attributes(options(**ATTRIBUTES), other, bundle, said.append)
    assert "ranked its attributes otherwise" in said[0]


def test_a_split_must_be_there(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{at}", "image": "0.png", "split": split} for at, split in enumerate(("train", "test", "", "train"))
    ]
    address = str(write_csv(tmp_path / "products.csv", rows))
    for split in (None, "train", "test"):
        checks.check_split(address, split)
    with pytest.raises(UsageError, match=r"no product of the catalogue .* is of 'valid'; there are 'test', 'train'"):
        checks.check_split(address, "valid")
    bare = str(write_csv(tmp_path / "bare.csv", [{"id": "p0", "image": "0.png"}]))
    with pytest.raises(UsageError, match="the column 'split' is missing or empty"):
        checks.check_split(bare, "test")


def test_a_report_s_folder_is_made_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    checks.check_report(options(), tmp_path / "new" / "report", said.append)
    assert list((tmp_path / "new" / "report").iterdir()) == []
    assert not said
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "report"):
        with pytest.raises(UsageError, match="--report: cannot write to"):
            checks.check_report(options(), folder, said.append)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    checks.check_report(options(metrics=("noise",)), tmp_path, said.append)
    assert not said
    checks.check_report(options(metrics=("sanity",)), tmp_path, said.append)
    assert "pip install 'whymatch[report]'" in said[0]


def test_seeds_need_a_method_that_draws(tmp_path: Path) -> None:
    one = audited(tmp_path, configuration='{"methods": ["sliding_window", "rise"], "seed": 3}')
    named = {
        each.method.name: each for each in explaining({"methods": ["sliding_window", "rise"], "seed": 3}).explainers()
    }
    assert explainers.other_seeds(options(), one, tuple(named.values())) == ()
    asked = options(metrics=("seeds",))
    (other,) = explainers.other_seeds(asked, one, tuple(named.values()))
    assert (other.method.name, other.method.parameters()["seed"]) == ("rise", 4)
    with pytest.raises(UsageError, match=r"seeds: none of the methods that are measured \(sliding_window\) draws"):
        explainers.other_seeds(asked, one, (named["sliding_window"],))


def test_stages_are_published_once_and_never_changed(tmp_path: Path) -> None:
    folder = tmp_path / "stages" / "stage-1"
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_bytes(b"{}")
    stage = CascadeStage(str(folder), "head", 0.5, judged=True)
    scratch = str(tmp_path / "scratch" / "run_id=one" / "e1")
    for _ in range(2):
        assert cascade._published(stage, scratch).bundle == storage.join(scratch, "stage-1")
    (folder / "bundle.json").write_bytes(b"[]")
    with pytest.raises(UsageError, match="is of another evaluation; choose another --evaluation-id or --scratch"):
        cascade._published(stage, scratch)
    assert (Path(scratch) / "stage-1" / "bundle.json").read_bytes() == b"{}"


def test_memory_counts_networks_and_maps(tmp_path: Path) -> None:
    small_bundle(tmp_path)
    bundle = bundles.read(str(tmp_path))
    network = sum((tmp_path / name).stat().st_size for name in bundle.similarity.files)
    stored = options(bundle=str(tmp_path))
    assert checks.needed_bytes(stored, bundle, 1000, 0, 3) == 1000 + 3 * network
    assert checks.needed_bytes(stored, bundle, 1000, 5, 3) == 1000 + 6 * 3 * network
    full = options(bundle=str(tmp_path), maps="full")
    maps = 3 * 256 * SIZE[0] * SIZE[1] * 8
    assert checks.needed_bytes(full, bundle, 1000, 5, 3) == 1000 + 6 * 3 * network + maps
    tight = options(bundle=str(tmp_path), memory_limit=1000 + 18 * network)
    assert checks.needed_bytes(tight, bundle, 1000, 5, 3) == tight.memory_limit
    with pytest.raises(UsageError, match=r"more than --memory-limit .*6 randomised copies.*fewer --stages"):
        checks.needed_bytes(tight, bundle, 1000, 6, 3)
