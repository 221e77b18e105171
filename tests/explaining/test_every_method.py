"""Every saliency method, from the command line to the tables and on a worker's own classes: no torch where they run."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.support.audits import audit, read_csv, table, write_csv
from tests.support.models.complete import ALL, QUICK, SIZE
from tests.support.photographs import picture
from transforms.core.errors import ModelFailed
from transforms.core.imaging.fill import make_fill
from transforms.core.imaging.images import ImageLimits
from transforms.core.records import EmbeddedImage, Pair, Side
from transforms.core.saliency.contract import Method
from transforms.core.saliency.decomposition import DecompositionMethod
from transforms.core.saliency.explainer import Explainer, Perturb, ReferenceMasks
from transforms.core.saliency.gradients import GradientMethod, IntegratedGradientsMethod
from transforms.core.saliency.methods import METHODS
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.core.similarity import similarities
from transforms.core.target import ExplanationTarget
from transforms.explaining.explanation_rows import explanation_rows
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings
from transforms.serving.embed import embed
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.storage import Access


@pytest.fixture(scope="module")
def models(complete: Path) -> Models:
    return Models(Serving(str(complete), batch=8, graphs=("gradient", "projection")))


@pytest.fixture(scope="module")
def few(drawn: Path) -> Path:
    """A manifest of 2 queries with 3 references each, among them each other."""
    rows = read_csv(drawn / "pairs.csv")
    names = list(dict.fromkeys(row["query_id"] for row in rows))[:2]
    images = {row["id"]: drawn / row["image"] for row in read_csv(drawn / "catalogue.csv")}
    kept = [row for row in rows if row["query_id"] in names and images.get(row["reference_id"], drawn / "-").is_file()]
    return write_csv(drawn / "few.csv", kept)


def explained(
    models: Models,
    folder: Path,
    images: Sequence[str],
    methods: Sequence[Method],
    *,
    perturb: Perturb = "query",
    side: Side = "query",
    fill: str | None = None,
) -> list[dict[str, Any]]:
    """Rows of the first image against the others, as a worker makes them; maps at the frame's own size."""
    load = ImageLoader(Access((str(folder),)), ImageLimits(), models.bundle.resize)
    masked = ReferenceMasks(7, fill or "auto", 0) if perturb == "both" else None
    addresses = [str(folder / name) for name in images[1:]]
    others = embed(addresses, load, models, masked, addresses)
    explainers = tuple(
        Explainer(method, fill or method.fill, perturb, None if method.name == "mask" else masked) for method in methods
    )
    explaining = ExplanationSettings(explainers, (side,), map_size=SIZE)
    prepared = PreparedImage.of(load(str(folder / images[0])), explaining, models, load)
    matched = []
    for at, (address, outcome) in enumerate(others):
        assert isinstance(outcome, EmbeddedImage)
        first, second = (str(folder / images[0]), address)[:: 1 if side == "query" else -1]
        matched.append((ExplanationTarget(Pair(f"p{at}", "q", f"r{at}", first, second), side), outcome))
    rows = list(explanation_rows(prepared, matched))
    assert all(isinstance(row, dict) for row in rows), rows
    return rows  # type: ignore[return-value]


def bits(row: dict[str, Any]) -> dict[str, Any]:
    """All columns, such that two rows compare equal only if they are equal to the bit."""
    return {**row, "map": row["map"].tobytes()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(5):
        picture(folder / f"{seed}.png", seed)
    PIL.Image.new("RGB", (64, 48), (200, 30, 60)).save(folder / "plain.png")
    picture(folder / "flat.png", 9, (1, 64))
    return folder


@pytest.mark.engine
def test_workers_run_every_method_without_torch_and_onnx(
    complete: Path, few: Path, drawn: Path, tmp_path: Path
) -> None:
    command = ["audit", "--manifest", str(few), "--catalogue", str(drawn / "catalogue.csv"), "--bundle", str(complete)]
    command += [
        "--out",
        str(tmp_path),
        "--run-id",
        "all",
        "--masks",
        "40",
        *ALL,
        "--explain",
        "both",
        "--device",
        "cpu",
    ]
    absent = {"torch", "torchvision", "onnx", "onnxscript", "captum", "lime", "xaitk_saliency", "sklearn"}
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {absent!r}: raise ImportError('absent: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from pipeline.cli import main\n"
        f"sys.exit(main({command!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path, "explanations", "all")
    pairs = {(row["query_id"], row["reference_id"]) for row in read_csv(few)}
    made = Counter((row["query_id"], row["reference_id"], row["method"], row["side"]) for row in rows)
    assert made == Counter((*pair, name, side) for pair in pairs for name in METHODS for side in ("query", "reference"))
    (run,) = table(tmp_path, "runs", "all")
    assert run["rows_read"] == run["pairs_explained"] == len(pairs)
    assert run["explanations"] == len(rows) == 16 * len(pairs)
    assert len(run["explainer_ids"]) == len(set(run["explainer_ids"])) == 8
    for row in rows:
        values = np.array(row["map"])
        assert np.isfinite(values).all()
        # sbsm shows no negative values, and five steps of mask may find nothing worth hiding
        assert np.ptp(values) > 0 or row["method"] in ("sbsm", "mask")
        assert len(row["top"]) == 2
    fills = {row["method"]: row["fill"] for row in rows}
    assert (fills["rise"], fills["mask"], fills["decomposition"]) == ("auto", "blur", "none")
    check_closed_form([row for row in rows if row["method"] == "decomposition"])


def check_closed_form(rows: Sequence[dict[str, Any]]) -> None:
    """The similarity is what the pixels add up to, and the bias: in the stored tables, for anybody with SQL."""
    assert rows
    for row in rows:
        total = np.mean(row["map"]) * row["input_height"] * row["input_width"]
        assert total + row["bias"] == pytest.approx(row["similarity"], abs=1e-4)


@pytest.mark.parametrize("perturb", ["query", "both"])
def test_methods_together_say_what_each_says_alone(models: Models, pictures: Path, perturb: Perturb) -> None:
    images = ["0.png", "1.png", "2.png", "0.png"]  # the query is a reference of itself, too
    together = explained(models, pictures, images, QUICK, perturb=perturb)
    alone = [row for method in QUICK for row in explained(models, pictures, images, [method], perturb=perturb)]
    assert [bits(row) for row in together] == [bits(row) for row in alone]
    reverse = explained(models, pictures, [images[0], *images[:0:-1]], QUICK, perturb=perturb)
    by_reference = {(row["method"], Path(row["reference"]).name): row["map"].tobytes() for row in together}
    for row in reverse:
        assert row["map"].tobytes() == by_reference[row["method"], Path(row["reference"]).name]


def test_windows_of_two_methods_are_passed_once(models: Models, pictures: Path) -> None:
    load = ImageLoader(Access((str(pictures),)), ImageLimits(), models.bundle.resize)
    image = load(str(pictures / "0.png"))
    passes = {}
    for methods in (QUICK[1:2], QUICK[1:3]):
        explaining = ExplanationSettings(tuple(Explainer(method, "auto") for method in methods))
        passes[len(methods)] = PreparedImage.of(image, explaining, models, load).passes
    windows = math.prod(-(-(side - 8) // 8) + 1 for side in SIZE)
    assert passes == {1: windows + 1, 2: windows + 1}


@pytest.mark.parametrize("method", QUICK, ids=lambda method: method.name)
@pytest.mark.parametrize("perturb", ["query", "both"])
@pytest.mark.parametrize(
    "images", [["plain.png", "1.png"], ["1.png", "plain.png"], ["plain.png"] * 2, ["flat.png", "0.png"], ["0.png"] * 2]
)
def test_plain_flat_and_equal_images_have_defined_maps(
    models: Models, pictures: Path, method: Method, images: list[str], perturb: Perturb
) -> None:
    for row in explained(models, pictures, images, [method], perturb=perturb):
        assert np.isfinite(row["map"]).all()
        assert math.isfinite(row["similarity"])
        if images[0] == "plain.png" and method.name not in ("decomposition", "mask"):
            # hiding a plain image by its own colour changes nothing: no evidence, and none made up. The decomposition
            # hides nothing, and Mask sees noise
            np.testing.assert_array_equal(row["map"], 0)
        if images == ["0.png"] * 2:
            assert row["similarity"] == pytest.approx(1)


@pytest.mark.parametrize("method", QUICK, ids=lambda method: method.name)
def test_a_thousand_references_and_one_have_the_same_maps(models: Models, pictures: Path, method: Method) -> None:
    load = ImageLoader(Access((str(pictures),)), ImageLimits(), models.bundle.resize)
    explaining = ExplanationSettings((Explainer(method, method.fill),), map_size=SIZE)
    prepared = PreparedImage.of(load(str(pictures / "0.png")), explaining, models, load)
    drawn = np.random.default_rng(0).normal(size=(1000, models.bundle.embedding_size))
    unit = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    scores = np.zeros(2, np.float32)
    matched = [
        (
            ExplanationTarget(Pair(f"p{at}", "q", f"r{at}", "q.png", f"{at}.png"), "query"),
            EmbeddedImage("", "", 1, 1, one, scores),
        )
        for at, one in enumerate(unit)
    ]
    whole = list(explanation_rows(prepared, matched))
    assert len(whole) == 1000
    for at in (0, 517, 999):
        (alone,) = explanation_rows(prepared, [matched[at]])
        assert isinstance(alone, dict)
        assert bits(alone) == bits(whole[at])  # type: ignore[arg-type]


def test_the_reference_is_explained_as_a_query_would_be(models: Models, pictures: Path) -> None:
    swapped = explained(models, pictures, ["1.png", "0.png"], QUICK)
    reference = explained(models, pictures, ["1.png", "0.png"], QUICK, side="reference")
    for one, other in zip(swapped, reference, strict=True):
        assert one["side"] == "query"
        assert other["side"] == "reference"
        assert Path(other["reference"]).name == "1.png"
        np.testing.assert_array_equal(one["map"], other["map"])
        assert one["similarity"] == other["similarity"]


@pytest.mark.parametrize("method", [GradientMethod(), IntegratedGradientsMethod(steps=3), DecompositionMethod()])
def test_slopes_and_closed_forms_against_masked_references_are_means_over_them(
    models: Models, pictures: Path, method: Method
) -> None:
    """A cosine is linear in the reference's unit vector: the map of the mean is the mean of the maps."""
    (row,) = explained(models, pictures, ["0.png", "1.png"], [method], perturb="both")
    load = ImageLoader(Access((str(pictures),)), ImageLimits(), models.bundle.resize)
    query, reference = (load(str(pictures / name)) for name in ("0.png", "1.png"))
    of_reference = models.design(ReferenceMasks(7, "auto", 0).method(SIZE), reference.sha256)
    fill = make_fill("auto", reference.pixels, models.bundle.fill_mean)
    versions = models.similarity.perturbed(reference.pixels, models.similarity.bank(of_reference), fill)
    explaining = ExplanationSettings((Explainer(method, method.fill),), map_size=SIZE)
    prepared = PreparedImage.of(query, explaining, models, load)
    each = [
        (
            ExplanationTarget(Pair(f"p{at}", "q", "r", "q.png", "r.png"), "query"),
            EmbeddedImage("r.png", "0", 1, 1, version),
        )
        for at, version in enumerate(versions)
    ]
    rows = [one for one in explanation_rows(prepared, each) if isinstance(one, dict)]
    assert len(rows) == 7
    np.testing.assert_allclose(row["map"], np.mean([one["map"] for one in rows], axis=0), atol=1e-6)
    if method.name == "decomposition":
        assert row["bias"] == pytest.approx(np.mean([one["bias"] for one in rows]), abs=1e-6)


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean"])
def test_perturbing_both_is_the_mean_over_masked_references(
    complete: Path, pictures: Path, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against all N x K similarities of masked query and masked reference, one by one."""
    models = Models(Serving(str(complete)))
    monkeypatch.setitem(vars(models.bundle), "similarity_function", function)
    method = SlidingWindowMethod(window=8, stride=8)
    (row,) = explained(models, pictures, ["0.png", "1.png"], [method], perturb="both")
    load = ImageLoader(Access((str(pictures),)), ImageLimits(), models.bundle.resize)
    query, reference = (load(str(pictures / name)) for name in ("0.png", "1.png"))
    design = method.design(SIZE, 0)
    of_reference = models.design(ReferenceMasks(7, "auto", 0).method(SIZE), reference.sha256)
    embedded = [
        models.similarity.perturbed(
            image.pixels, models.similarity.bank(some), make_fill("auto", image.pixels, models.bundle.fill_mean)
        )
        for image, some in ((query, design), (reference, of_reference))
    ]
    every = similarities(embedded[1], embedded[0], function)  # [K, N]
    base = similarities(embedded[1], models.similarity.embed(query.pixels[None]), function)[:, 0]
    hidden = 1 - design.masks(0, design.n).astype(np.float64)
    drops = base.mean() - every.mean(axis=0)
    saliency = np.einsum("n,nyx->yx", drops, hidden) / hidden.sum(axis=0)
    np.testing.assert_allclose(row["map"].reshape(SIZE), saliency, atol=2e-6 * max(1, np.abs(every).max()))
    assert row["perturbed"] == "both"
    assert row["passes"] == design.n + 1 + 7
    whole = similarities(
        models.similarity.embed(reference.pixels[None]), models.similarity.embed(query.pixels[None]), function
    )
    assert row["similarity"] == pytest.approx(whole[0, 0])  # of the pair as it is


@pytest.mark.engine
def test_a_converging_run_says_how_many_passes_it_took(complete: Path, few: Path, drawn: Path, tmp_path: Path) -> None:
    more = ["--catalogue", str(drawn / "catalogue.csv"), "--masks", "256", "--set", "rise.cells=2"]
    for run_id, limit in (("early", "0.2"), ("late", "0.999999")):
        assert audit(few, complete, tmp_path, run_id, *more, "--converge", limit) == 0
    assert audit(few, complete, tmp_path, "again", *more, "--converge", "0.2", "--batch", "5") == 0
    early, late, again = (table(tmp_path, "explanations", run_id) for run_id in ("early", "late", "again"))
    assert {row["passes"] for row in late} == {257}
    block = 8  # 2 x 2 cells: a Hadamard matrix of order 4, and its complement
    assert all((row["passes"] - 1) % (2 * block) == 0 for row in early)
    assert min(row["passes"] for row in early) < 257
    for one, other in zip(early, again, strict=True):
        assert (one["passes"], one["map"]) == (other["passes"], other["map"])
    # all references of a query share its passes
    by_query: dict[str, set[int]] = {}
    for row in early:
        by_query.setdefault(row["query_id"], set()).add(row["passes"])
    assert all(len(passes) == 1 for passes in by_query.values())


@pytest.mark.engine
def test_what_one_method_cannot_do_leaves_the_others(
    complete: Path, few: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModelFailed("the gradient fell over")

    monkeypatch.setattr("transforms.explaining.image_session.SessionView.gradient", fail)
    more = ["--catalogue", str(drawn / "catalogue.csv"), "--method", "rise,gradient_x_input", "--set", "rise.cells=4"]
    assert audit(few, complete, tmp_path, "half", *more, "--max-failure-rate", "1") == 0
    (run,) = table(tmp_path, "runs", "half")
    rows, failures = table(tmp_path, "explanations", "half"), table(tmp_path, "failures", "half")
    assert {row["method"] for row in rows} == {"rise"}
    assert {(row["method"], row["side"], row["reason"]) for row in failures} == {
        ("gradient_x_input", None, "model_failed")
    }
    assert len(rows) == len(failures) == run["rows_read"] == run["pairs_failed"]
    assert run["pairs_explained"] == 0


@pytest.mark.engine
def test_a_lost_image_fails_on_both_sides_and_counts_once(
    complete: Path, few: Path, drawn: Path, tmp_path: Path
) -> None:
    rows = read_csv(few)
    catalogue = {row["id"]: row["image"] for row in read_csv(drawn / "catalogue.csv")}
    pairs = [
        {"query": catalogue[rows[0]["query_id"]], "reference": catalogue[rows[0]["reference_id"]]},
        {"query": "images/no-such.png", "reference": catalogue[rows[1]["reference_id"]]},
    ]
    manifest = write_csv(drawn / "lost.csv", pairs)
    more = ["--explain", "both", "--method", "rise,decomposition", "--set", "rise.cells=4", "--max-failure-rate", "1"]
    assert audit(manifest, complete, tmp_path, "lost", *more) == 0
    (run,) = table(tmp_path, "runs", "lost")
    assert (run["rows_read"], run["pairs_explained"], run["pairs_failed"], run["explanations"]) == (2, 1, 1, 4)
    failures = table(tmp_path, "failures", "lost")
    assert Counter((row["side"], row["method"]) for row in failures) == {("query", None): 1, ("reference", None): 1}


@pytest.mark.engine
def test_mask_alone_optimises_both_images(complete: Path, few: Path, drawn: Path, tmp_path: Path) -> None:
    more = ["--catalogue", str(drawn / "catalogue.csv"), "--method", "mask", "--set", "mask.steps=4"]
    assert audit(few, complete, tmp_path, "both", *more, "--perturb", "both") == 0
    rows = table(tmp_path, "explanations", "both")
    assert {(row["passes"], row["perturbed"], row["fill"]) for row in rows} == {(8, "both", "blur")}
    (run,) = table(tmp_path, "runs", "both")
    images = len(table(tmp_path, "images", "both"))
    assert run["forward_passes"] == images + run["queries"] + sum(row["passes"] for row in rows)
