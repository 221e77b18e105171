"""How a bundle ranks: what bundle.json may say of it, and the id by which tables tell rankings apart."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph
from tests.support.audits import audit, table, write_csv
from tests.support.models.bundles import PREPROCESSING, VOCABULARY, small_bundle
from tests.support.models.networks import SIZE, attribute_network, network
from tests.support.photographs import take
from transforms import tables
from transforms.core.attributes.ranking import Ranking, Scale, Scales
from transforms.core.errors import BundleError
from transforms.core.imaging.images import Resize
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle

ODD = (math.inf, -math.inf, math.nan, 5e-324, 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundles") / "small"
    small_bundle(made)
    return made


def saying(folder: Path, target: Path, **changed: Any) -> str:
    """A folder whose bundle.json is that of ``folder`` but for what is ``changed``."""
    content = {**json.loads((folder / "bundle.json").read_text()), **changed}
    (target / "bundle.json").write_text(json.dumps(content))
    return str(target)


def scaled(**scale: Any) -> dict[str, Any]:
    return {"scales": {"match": {"values": [0, 1], "levels": [0, 1], **scale}}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"phi": [-1, 0.5, 0]}, "phi is three finite weights of at least 0"),
        ({"phi": [math.nan, 0.5, 0]}, r"list of finite numbers as phi, got \[NaN, 0.5, 0\]"),
        ({"phi": [10**400, 0.5, 0]}, "list of finite numbers as phi"),
        ({"phi": [1, 1, 1, 1, 1]}, "phi is the weights of confidence, map match and prior, got 5"),
        ({"phi": [1]}, "phi is the weights of confidence, map match and prior, got 1"),
        ({"phi": "123"}, 'list of finite numbers as phi, got "123"'),
        ({"phi": [True, 1, 1]}, "list of finite numbers as phi"),
        ({"priors": [0.1, math.nan, 0.2]}, "list of finite numbers as priors"),
        ({"priors": [0.1, None, 0.2]}, r"list of finite numbers as priors, got \[0.1, null, 0.2\]"),
        ({"priors": ["x", "y", "z"]}, "list of finite numbers as priors"),
        ({"priors": "xyz"}, "list of finite numbers as priors"),
        ({"priors": [0.1, 0.2]}, "2 priors for 3 attributes"),
        (scaled(values=[0, math.inf]), "the values of the scale 'match'"),
        (scaled(values=["a", "b"]), "the values of the scale 'match'"),
        (scaled(levels=[0, math.nan]), "the levels of the scale 'match'"),
        (scaled(values=[0, 5e-324]), "the scale 'match': a scale's slopes are finite"),
        (scaled(values=[-1.7e308, 1.7e308]), "the scale 'match': a scale's slopes are finite"),
        (scaled(values=[1, 0]), "the scale 'match': a scale has at least two rising values"),
        (scaled(more=1), "each values and levels; 'match' is no such"),
        ({"scales": {"beauty": {"values": [0, 1], "levels": [0, 1]}}}, "'beauty' is no such"),
        ({"scales": {"match": [0, 1]}}, "the scale 'match' as an object"),
        ({"scales": None}, "expected scales as an object of names and their values, got null"),
        ({"scales": [1]}, r"expected scales as an object of names and their values, got \[1\]"),
        ({"concepts": [1]}, "expected concepts as an object"),
        ({"conditions": ["category"]}, r'expected conditions as an object .*, got \["category"\]'),
        ({"conditions": {"a": "12345"}}, "list of finite numbers as the mask of condition 'a'"),
        ({"conditions": {"a": [1, 1, 1, 1, -1]}}, "the mask of condition 'a' must have 5 finite entries"),
    ],
)
def test_hostile_rankings_are_refused_on_read(folder: Path, tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    where = saying(folder, tmp_path, **changed)
    with pytest.raises(BundleError, match=told) as raised:
        bundles.read(where)
    assert str(tmp_path / "bundle.json") in str(raised.value)
    assert "export the bundle again" in str(raised.value)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[" * 100_000, b'{"phi": ' + b"1" * 5000 + b"}"])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match="is no JSON"):
        bundles.read(str(tmp_path))


def test_bundles_of_earlier_versions_are_read(folder: Path, tmp_path: Path) -> None:
    old = bundles.read(saying(folder, tmp_path, phi=[0.25, 0.75], conditions=[]))
    assert (old.phi, old.conditions, old.scales) == ((0.25, 0.75, 0), {}, Scales())


def test_a_bundle_that_could_not_be_read_cannot_be_made(folder: Path) -> None:
    read = bundles.read(str(folder))
    wrong: list[dict[str, Any]] = [{"phi": (-1, 0, 0)}, {"phi": (1, 0)}, {"priors": (0.1, math.inf, 0.2)}]
    for changed in wrong:
        with pytest.raises(BundleError, match="cannot rank attributes"):
            replace(read, **changed)


def test_nothing_is_built_with_a_wrong_phi(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"phi is three finite weights of at least 0, got \(-1"):
        build(
            tmp_path / "b",
            BundleSpec(
                SimilarityGraph(network(), PREPROCESSING),
                Resize(SIZE, "squash"),
                attributes=AttributeGraph(attribute_network(), VOCABULARY),
                phi=(-1.0, 0.0, 0.0),
            ),
        )
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=100)
@given(*[st.lists(st.floats(-1e150, 1e150) | st.sampled_from(ODD), min_size=2, max_size=4)] * 2)
def test_whatever_is_a_scale_is_finite_between_its_knots(values: list[float], levels: list[float]) -> None:
    try:
        scale = Scale(tuple(sorted(values)), tuple(sorted(levels)))
    except ValueError:
        return
    middle = [a / 2 + b / 2 for a, b in zip(scale.values, scale.values[1:], strict=False)]
    found = scale([*scale.values, *middle])
    assert all(map(math.isfinite, found))
    assert min(levels) <= min(found)
    assert max(found) <= max(levels)


def test_priors_are_numbers() -> None:
    for prior in (math.nan, math.inf, None, "x"):
        with pytest.raises(ValueError, match="priors are finite numbers"):
            Ranking(priors=(0.5, prior))  # type: ignore[arg-type]


# The id


def test_what_ranks_decides_the_id(folder: Path) -> None:
    read = bundles.read(str(folder))
    changed: list[Bundle] = [
        replace(read, phi=(0.25, 0.75, 0.0)),
        replace(read, scales=Scales(match=Scale((0.0, 0.5), (0.0, 1.0)))),
        replace(read, priors=(0.1, 0.2, 0.3)),
        replace(read, priors=(0.1, 0.3, 0.2)),
    ]
    ids = [one.ranking_id for one in (read, *changed)]
    assert len(set(ids)) == 5
    assert all(one is not None and one.startswith("r") for one in ids)
    assert {one.model_id for one in changed} == {read.model_id}
    assert replace(read, phi=(1, 0, 0)).ranking_id == replace(read, phi=(1.0, 0.0, 0.0)).ranking_id
    assert replace(read, attributes=None, vocabulary=()).ranking_id is None
    assert replace(read, training={"seed": 1}).ranking_id == read.ranking_id


def test_the_id_outlives_the_file(folder: Path, tmp_path: Path) -> None:
    read = bundles.read(str(folder))
    weighed = replace(read, phi=(0.1, 0.2, 0.7), scales=Scales(Scale((0, 1, 3), (0, 2, 3))), priors=(1, 0, 0.5))
    where = saying(folder, tmp_path, **json.loads(json.dumps({**weighed.ranking_record(), "priors": [1, 0, 0.5]})))
    assert bundles.read(where).ranking_id == weighed.ranking_id


@pytest.mark.engine
def test_the_tables_say_which_ranking(folder: Path, tmp_path: Path) -> None:
    """Two audits of one model that rank otherwise differ by this id alone."""
    take(tmp_path / "c", products=4)
    images = [str(tmp_path / "c" / "images" / f"p00{number}.png") for number in range(4)]
    pairs = write_csv(tmp_path / "c" / "pairs.csv", [{"query": images[0], "reference": other} for other in images[1:]])
    read = bundles.read(str(folder))
    weighed = replace(read, phi=(0.0, 1.0, 0.0))
    bare = tmp_path / "bare"
    made = {"ranked": read, "weighed": weighed, "bare": small_bundle(bare, attributes=False)}
    runs, ids = {}, {}
    for name, bundle in made.items():
        own = bare if name == "bare" else tmp_path / name
        if name != "bare":
            own.mkdir()
            for file in folder.iterdir():
                (own / file.name).write_bytes(file.read_bytes())
            bundles.write(bundle, own)
        assert audit(pairs, own, tmp_path / "out", name) == 0
        (runs[name],) = table(tmp_path / "out", "runs", name)
        ids[name] = {row["ranking_id"] for row in table(tmp_path / "out", "explanations", name)}
        assert ids[name] == {bundle.ranking_id} == {runs[name]["ranking_id"]}
    assert ids["ranked"] != ids["weighed"]
    assert ids["bare"] == {None}
    assert runs["ranked"]["attribute_model_id"] == runs["weighed"]["attribute_model_id"]
    recorded = json.loads(runs["weighed"]["ranking"])
    assert recorded["phi"] == [0, 1, 0]
    assert recorded["scales"].keys() == {"confidence", "match", "prior"}
    assert runs["bare"]["ranking"] is None
    assert {run["schema_version"] for run in runs.values()} == {tables.SCHEMA_VERSION}
    assert tables.SCHEMA_VERSION >= 3  # the first that has the ranking
