"""An audit that a file asks for is the audit that the same flags ask for: the same rows, end to end on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import cli
from tests.support.audits import table

TABLES = ("explanations", "failures", "images", "products", "strata")
TIMES = {"started", "finished", "forecast_seconds"}

CONFIG = """\
manifest = "pairs.csv"
catalogue = "catalogue.csv"
bundle = "{bundle}"
run_id = "july"
keep = ["likeness"]
method = ["rise", "sliding_window"]
masks = 40
set = {{ sliding_window = {{ stride = 4 }} }}
map_size = [6, 8]
sample = 0.5
max_failure_rate = 0.5
shards = 2
device = "cpu"
"""


@pytest.mark.engine
def test_a_file_audits_as_the_flags_do(
    drawn: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "elsewhere" / "audit.toml"
    config.parent.mkdir()
    config.write_text(CONFIG.format(bundle=bundle))
    flags = (
        f"--manifest pairs.csv --catalogue catalogue.csv --bundle {bundle} --run-id july --keep likeness "
        "--method rise,sliding_window --masks 40 --set sliding_window.stride=4 --map-size 6x8 --sample 0.5 "
        "--max-failure-rate 0.5 --shards 2 --device cpu"
    ).split()
    monkeypatch.chdir(drawn)  # a relative path is one of the current folder, as on the command line
    assert cli.main(["audit", "--config", str(config), "--out", str(tmp_path / "file")]) == 0
    assert cli.main(["audit", *flags, "--out", str(tmp_path / "flags")]) == 0
    for name in TABLES:
        rows = table(tmp_path / "file", name, "july")
        assert rows == table(tmp_path / "flags", name, "july"), name
        assert rows or name in ("products", "failures")  # the sample may hold none
    (by_file,), (by_flags,) = (table(tmp_path / out, "runs", "july") for out in ("file", "flags"))
    configurations = [json.loads(run.pop("configuration")) for run in (by_file, by_flags)]
    assert [one.pop("out") for one in configurations] == [str(tmp_path / "file"), str(tmp_path / "flags")]
    assert configurations[0] == configurations[1]
    assert {name for name in by_file if by_file[name] != by_flags[name]} <= TIMES
