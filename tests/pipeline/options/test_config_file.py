"""A config file gives what the flags give, the command line comes first, and what is wrong is named with its line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.audit.options import AuditOptions
from pipeline.commands.check import CheckOptions
from pipeline.evaluation.options import EvaluateOptions
from pipeline.options import config_file
from pipeline.options.command_line import options_of
from pipeline.options.declaration import declared

AUDIT = """\
manifest = ["july.csv", "s3://bucket/august-*.parquet"]
bundle = "bundle"
out = "tables"
run-id = "july"
period = "2026-07"
catalogue = "products.csv"
columns = { query_id = "anchor", reference_id = "shown" }
keep = ["shop", "rank"]
image-root = ["/images", "more"]
allow-http = true
sample = 0.25
sampling-seed = 3
stratify = "shop"
min-queries = 10
budget-passes = 1_000_000
method = ["rise", "lime"]
masks = 256
sampling = "sobol"
converge = 0.875
explain = "query"
perturb = "query"
reference-masks = 20
fill = "mean"
contrast = true
false-alarm-rate = 0.1
legend = "legend.json"
seed = 7
top = 3
map-size = [14, 28]
max-failure-rate = 0.2
score-tolerance = 1
max-pixels = 1000
max-bytes = 2000
memory-limit = "4G"
runner = "spark"
workers = 2
batch = 4
shards = 5
store-embeddings = true
device = "cpu"
threads = 6
beam-args = ["--region=x", "--zone=y"]

[set.lime]
samples = 500

[set]
"rise.cells" = 7
"""
AUDIT_FLAGS = (
    "--manifest july.csv s3://bucket/august-*.parquet --bundle bundle --out tables --run-id july --period 2026-07 "
    "--catalogue products.csv --columns query_id=anchor,reference_id=shown --keep shop,rank --image-root /images "
    "--image-root more --allow-http --sample 0.25 --sampling-seed 3 --stratify shop --min-queries 10 "
    "--budget-passes 1000000 --method rise,lime --masks 256 --sampling sobol --converge 0.875 --explain query "
    "--perturb query --reference-masks 20 --fill mean --contrast --false-alarm-rate 0.1 --legend legend.json --seed 7 "
    "--top 3 --map-size 14x28 --max-failure-rate 0.2 --score-tolerance 1 --max-pixels 1000 --max-bytes 2000 "
    "--memory-limit 4G --runner spark --workers 2 --batch 4 --shards 5 --store-embeddings --device cpu --threads 6 "
    "--set lime.samples=500 --set rise.cells=7 -- --region=x --zone=y"
)

EVALUATE = """\
["what to measure"]
tables = "tables"
run_id = "july"
evaluation_id = "first"
bundle = "bundle"
metrics = ["insertion", "pointing", "sanity"]
method = "rise"
sample = 0.5
sampling_seed = 1

[how-to-measure]
maps = "full"
controls = []
fills = ["#FFFFFF", "mean"]
noise = 2.5
stages = 4
scratch = "scratch"
seed = 2

[what_is_known_of_the_products]
catalogue = "products.csv"
region = "shoe"
legend = "legend.json"
tolerance = 3
split = "test"
neighbours = 4
max_distance = 1

[limits]
max_agreement = 0.25
max_failure_rate = 0.1
max_pixels = 1000
max_bytes = 2000
memory_limit = 1048576

["where to run"]
report = "report"
runner = "flink"
workers = 2
batch = 3
shards = 4
image_root = "images"
allow_http = true
device = "cuda"
threads = 5
beam_args = ["--region=x"]
"""
EVALUATE_FLAGS = (
    "tables --run-id july --evaluation-id first --bundle bundle --metrics insertion,pointing,sanity --method rise "
    "--sample 0.5 --sampling-seed 1 --maps full --controls none --fills #ffffff,mean --noise 2.5 --stages 4 "
    "--scratch scratch --seed 2 --catalogue products.csv --region shoe --legend legend.json --tolerance 3 --split test "
    "--neighbours 4 --max-distance 1 --max-agreement 0.25 --max-failure-rate 0.1 --max-pixels 1000 --max-bytes 2000 "
    "--memory-limit 1M --report report --runner flink --workers 2 --batch 3 --shards 4 --image-root images "
    "--allow-http --device cuda --threads 5 -- --region=x"
)

CHECK = """\
manifest = "pairs.csv"
bundle = "bundle"
catalogue = "products.csv"
columns = "served_score=similarity"
image-root = "images"
allow-http = true
score-tolerance = 0.125
pairs = 99
batch = 3
max-pixels = 1000
max-bytes = 2000
device = "cpu"
threads = 5
"""
CHECK_FLAGS = (
    "--manifest pairs.csv --bundle bundle --catalogue products.csv --columns served_score=similarity "
    "--image-root images --allow-http --score-tolerance 0.125 --pairs 99 --batch 3 --max-pixels 1000 --max-bytes 2000 "
    "--device cpu --threads 5"
)

BRIEF = 'manifest = "m.csv"\nbundle = "b"\nout = "o"\nrun-id = "r"\n'


def given(*words: str) -> Any:
    own, _, behind = " ".join(words).partition(" -- ")
    return options_of(cli.build_parser().parse_args(own.split(" ")), behind.split())


def written(folder: Path, text: str) -> str:
    path = folder / "audit.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("command", "text", "flags", "kind"),
    [
        ("audit", AUDIT, AUDIT_FLAGS, AuditOptions),
        ("plan", AUDIT, AUDIT_FLAGS, AuditOptions),
        ("evaluate", EVALUATE, EVALUATE_FLAGS, EvaluateOptions),
        ("check", CHECK, CHECK_FLAGS, CheckOptions),
    ],
)
def test_a_file_gives_what_the_flags_give(command: str, text: str, flags: str, kind: type, tmp_path: Path) -> None:
    # no conflict of options that are all set: these two exclude each other, and one of a pair is enough to see
    found = given(command, "--config", written(tmp_path, text))
    assert found == given(command, flags)
    bare = {"manifest": ("m",), "bundle": "b", "out": "o", "run_id": "r", "tables": "t", "evaluation_id": "e"}
    default = kind(**{option.name: bare[option.name] for option in declared(kind) if option.name in bare})
    same = [option.name for option in declared(kind) if getattr(found, option.name) == getattr(default, option.name)]
    assert set(same) <= {"explain", "perturb"}, "an option is left at its default, and so not tested"


def test_options_that_exclude_others(tmp_path: Path) -> None:
    text = BRIEF + 'explain = "both"\nperturb = "both"\n'
    flags = "--manifest m.csv --bundle b --out o --run-id r --explain both --perturb both"
    assert given("audit", "--config", written(tmp_path, text)) == given("audit", flags)


def test_the_command_line_comes_first(tmp_path: Path) -> None:
    path = written(tmp_path, BRIEF + 'method = ["rise", "lime"]\nset = {"rise.p" = 0.25}\nimage-root = ["a", "b"]\n')
    own = "--method sbsm --set sbsm.stride=9 --image-root c --manifest n.csv o.csv"
    found = given("audit", f"--config {path} {own}")
    assert found == given("audit", f"{own} --config {path}")
    assert (found.methods, found.settings, found.image_roots) == (("sbsm",), {"sbsm.stride": "9"}, ("c",))
    assert (found.manifest, found.out) == (("n.csv", "o.csv"), "o")
    assert given("evaluate", "other", "--config", written(tmp_path, EVALUATE)).tables == "other"


def test_what_no_file_gives_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["audit", "--config", written(tmp_path, 'manifest = "m.csv"\nout = "o"\n')])
    assert stop.value.code == 2
    assert "required: --bundle" in capsys.readouterr().err


def complaint(capsys: pytest.CaptureFixture[str], path: str, *more: str, command: str = "audit") -> str:
    assert cli.main([command, "--config", path, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("whymatch: ")
    return said.removeprefix("whymatch: ").strip().replace(path, "audit.toml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('methud = ["rise"]', "audit.toml:6: there is no option 'methud'; did you mean 'method'?"),
        ("mapsize = [1, 2]", "audit.toml:6: there is no option 'mapsize'; did you mean 'map-size'?"),
        ("map_sise = [1, 2]", "audit.toml:6: there is no option 'map_sise'; did you mean 'map_size'?"),
        ("methods = ['rise']", "audit.toml:6: there is no option 'methods'; did you mean 'method'?"),
        (
            "zzzzzz = 1",
            "audit.toml:6: there is no option 'zzzzzz'; --help lists those that there are, by their flags",
        ),
        ("['which queries']\nsampel = 1", "audit.toml:7: there is no option 'sampel'; did you mean 'sample'?"),
        ("[wich-queries]\nsample = 1", "audit.toml:6: there is no option 'wich-queries'; did you mean 'min-queries'?"),
        ("[limits]\nmasks = 4", "audit.toml:7: 'masks' belongs under 'how to explain', not under 'limits'"),
        (
            "['which queries']\nsample = 1\n[how_to_explain]\nmax-pixels = 4",
            "audit.toml:9: 'max-pixels' belongs under 'limits', not under 'how_to_explain'",
        ),
        ("run_id = 'r2'", "audit.toml:6: 'run_id' is given twice"),
        ("sample = 2", "audit.toml:6: sample must be above 0 and at most 1, not 2"),
        ("sample = nan", "audit.toml:6: sample must be above 0 and at most 1, not nan"),
        ("sample = '1'", "audit.toml:6: sample must be a number, above 0 and at most 1, not '1'"),
        ("top = 1.5", "audit.toml:6: top must be a whole number, at least 1, not 1.5"),
        ("top = true", "audit.toml:6: top must be a whole number, at least 1, not True"),
        ("contrast = 'yes'", "audit.toml:6: contrast must be true or false, not 'yes'"),
        (
            "explain = 'all'",
            "audit.toml:6: explain must be one of query, reference, both, not 'all'",
        ),
        ("period = 2026-07-01", "audit.toml:6: period must be a text, not datetime.date(2026, 7, 1)"),
        ("method = 5", "audit.toml:6: method must be a list of texts, not 5"),
        ("method = [\n  'rise',\n  5,\n]", "audit.toml:6: method must be a list of texts, not ['rise', 5]"),
        ("map-size = '28'", "audit.toml:6: map-size: expected HxW in pixels, such as 224x224, and got '28'"),
        ("map-size = [0, 28]", "audit.toml:6: map-size must be at least 1x1, not [0, 28]"),
        ("memory-limit = '4T'", "audit.toml:6: memory-limit: expected a size such as 512M or 4G, and got '4T'"),
        ("set = 'rise.p=1'", "audit.toml:6: set must be a table, 'METHOD.PARAMETER' = VALUE, not 'rise.p=1'"),
        ("set = {rise = {p = 1}, 'rise.p' = 1}", "audit.toml:6: --set: rise.p is set twice"),
        # what is wrong with several options together is told by the first that the file gives
        (
            "'method' = ['rize']",
            "audit.toml:6: --method rize: there is no method 'rize'; there are rise, sliding_window, sbsm, lime, mask, "
            "gradient_x_input, integrated_gradients, decomposition",
        ),
        ("fill = 'red'", "audit.toml:6: --fill: a fill is mean, auto, blur or #rrggbb, not 'red'"),
        (
            "[set]\n'rise.cells' = 7\n'rise.sells' = 8",
            "audit.toml:8: --method rise: rise has no parameter 'sells'; it has masks, cells, p, sampling, estimator, "
            "banks, converge",
        ),
        (
            "method = ['rise']\n[set.rise]\np = 1\ncells = 'x'",
            "audit.toml:9: --method rise: rise.cells is a whole number, not 'x'",
        ),
        (
            "set = { rise = 5 }",
            "audit.toml:6: --set must be METHOD.PARAMETER=VALUE, such as lime.samples=500, not 'rise'",
        ),
        ("a = = 1", "audit.toml:6: Invalid value; see https://toml.io for how TOML is written"),
        ("top = 1\ntop = 2", "audit.toml:7: Cannot overwrite a value; see https://toml.io for how TOML is written"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, f"{BRIEF}# a comment, top = 0\n{line}\n")
    assert complaint(capsys, path) == said


@pytest.mark.parametrize(
    "before",
    [
        "# next \x85 line \u2028 paragraph \u2029",
        "period = 'next \x85 line \u2028'",
        "# a comment\r",
        'period = """\n[\n\\""""""',
        "period = '''\n{'\n# '''''",
        'period = ""',
        'period = "\\"[" # ] [',
        "image-root = [ # ]\n  'a]',\n  \"'[\", # it's\n]",
        "columns = { a = 'b', 'c[' = '}' }",
        "[set] # [",
    ],
)
def test_lines_end_with_a_line_feed_and_nothing_else(
    before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.toml"
    text = f"{BRIEF}{before}\n[limits]\ntop = 'wrong'\n"
    path.write_bytes(text.encode())
    line = text.count("\n")
    assert complaint(capsys, str(path)).startswith(f"audit.toml:{line}: 'top' belongs under")


@pytest.mark.parametrize("listed", [True, False], ids=["one list", "many keys"])
def test_a_line_is_found_in_few_looks(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"sampel.{number}" for number in range(5000)]
    some = "manifest = [\n{}]" if listed else "[set]\n{}"
    line = "  '{}',\n" if listed else "'{}' = 1\n"
    text = some.format("".join(map(line.format, names))) + "\n[limits]\nsampel = 1\n"
    looks = []

    def counted(text: str) -> dict[str, Any]:
        looks.append(text)
        return loads(text)

    loads = tomllib.loads
    monkeypatch.setattr(tomllib, "loads", counted)
    assert config_file._line(text, ("limits", "sampel")) == text.count("\n")
    assert len(looks) <= 20


def test_the_one_name_none_is_no_name(tmp_path: Path) -> None:
    brief = 'tables = "t"\nbundle = "b"\n'
    for value in ('"none"', '["none"]', "[]"):
        assert given("evaluate", "--config", written(tmp_path, f"{brief}controls = {value}\n")).controls == ()


def test_what_the_command_line_gives_has_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, BRIEF + "sample = 0.5\n")
    assert complaint(capsys, path, "--sample", "2") == "--sample must be above 0 and at most 1, not 2.0"


@pytest.mark.parametrize("line", ["out = 5 # {}", "top = '{}'", "'{}' = 5", "method = ['{}']", "fill = '{}'"])
def test_secrets_are_not_echoed(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "https://user:hunter2@host/x"
    path = written(tmp_path, 'manifest = "m.csv"\nbundle = "b"\nrun-id = "r"\n' + line.format(secret))
    said = complaint(capsys, path, *(() if line.startswith("out") else ("--out", "o")))
    assert "hunter2" not in said
    assert said.startswith("audit.toml:4: ")


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.toml" in complaint(capsys, str(tmp_path / "nowhere.toml")).replace("audit.toml", "nowhere.toml")
    path = written(tmp_path, BRIEF)
    Path(path).write_bytes(b"\xff")
    assert complaint(capsys, path) == "audit.toml is not UTF-8; save it as UTF-8"
    assert complaint(capsys, written(tmp_path, BRIEF), "--config", path) == (
        "--config is given twice; one file has all options"
    )
