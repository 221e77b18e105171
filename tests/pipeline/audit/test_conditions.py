"""Conditions of the similarity: one set of passes, and the maps that a bundle of each condition alone would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import PIL.Image
import pytest
from onnx import helper, numpy_helper

from export.bundling.build import build
from export.bundling.bundle_spec import AttributeGraph, BundleSpec, SimilarityGraph
from pipeline.audit.bundle_fit import check_bundle, plan_memory
from pipeline.audit.options import AuditOptions
from tests.support.audits import audit, read_csv, table, write_csv
from tests.support.models.bundles import PREPROCESSING, VOCABULARY
from tests.support.models.networks import SIZE, D, attribute_network, network, vectors
from transforms.core.errors import BundleError, UsageError
from transforms.core.imaging.images import ImageLimits, Resize
from transforms.core.records import EmbeddedImage, Failure, Float32, Float64, Pair, Side
from transforms.core.saliency.contract import (
    ConfiguredMethod,
    Design,
    ImageView,
    Method,
    MethodCost,
    Needs,
    References,
    Saliency,
)
from transforms.core.saliency.decomposition import DecompositionMethod
from transforms.core.saliency.explainer import Explainer, Perturb, ReferenceMasks
from transforms.core.saliency.gradients import GradientMethod, IntegratedGradientsMethod
from transforms.core.saliency.lime import LimeMethod
from transforms.core.saliency.mask import MaskMethod
from transforms.core.saliency.perturbation import Perturbation
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sbsm import SbsmMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.core.similarity import (
    SimilarityFunction,
)
from transforms.core.target import ExplanationTarget
from transforms.explaining.explanation_rows import explanation_rows
from transforms.explaining.prepared_image import PreparedImage
from transforms.explaining.settings import ExplanationSettings, Matched
from transforms.inputs.sampling import check_condition
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.embed import embed
from transforms.serving.gradient_model import GradientModel
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving
from transforms.storage import Access

FUNCTIONS: tuple[SimilarityFunction, ...] = ("cosine", "dot", "euclidean")
CONDITIONS: Mapping[str, tuple[float, ...]] = {
    "colour": (1.0, 0.0, 0.5, 0.0, 2.0),
    "shape": (0.0, 1.0, 1.0, 0.25, 0.0),
    "texture": (0.1, 0.2, 3.0, 0.0, 1.0),
}
MASKED: list[Method] = [
    RiseMethod(masks=40, cells=4),
    SlidingWindowMethod(window=4, stride=4),
    SbsmMethod(window=4, stride=4),
    LimeMethod(samples=30),
]
CLOSED: list[Method] = [*MASKED, DecompositionMethod()]


def ending_in(model: onnx.ModelProto, mask: Sequence[float]) -> onnx.ModelProto:
    """``model`` with its embedding multiplied by ``mask``, in the graph."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["unmasked" if name == output else name for name in node.output]
    model.graph.node.append(helper.make_node("Mul", ["unmasked", "mask_of_condition"], [output]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(mask, np.float32), "mask_of_condition"))
    return model


def built(folder: Path, function: SimilarityFunction, name: str | None = None) -> Bundle:
    """The bundle of all conditions or, by hand, that of one of them: its graph ends in the mask, and then the norm."""
    return build(
        folder,
        BundleSpec(
            SimilarityGraph(network() if name is None else ending_in(network(), CONDITIONS[name]), PREPROCESSING),
            Resize(SIZE, "squash"),
            attributes=AttributeGraph(attribute_network(), VOCABULARY),
            similarity_function=function,
            conditions=CONDITIONS if name is None else {},
        ),
    )


@dataclass(frozen=True)
class Served:
    """The models of the bundle of all conditions, and of those of one condition each."""

    joint: Models
    alone: Mapping[str, Models]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: <function>/all, and <function>/<condition>."""
    root = tmp_path_factory.mktemp("bundles")
    for function in FUNCTIONS:
        (root / function).mkdir()
        for name in (None, *CONDITIONS):
            made = built(root / function / (name or "all"), function, name)
            assert made.projection is not None
    return root


@pytest.fixture(scope="module")
def served(folders: Path) -> Mapping[str, Served]:
    def models(folder: Path) -> Models:
        return Models(Serving(str(folder), batch=8, graphs=("projection",)))

    return {
        function: Served(
            models(folders / function / "all"), {name: models(folders / function / name) for name in CONDITIONS}
        )
        for function in FUNCTIONS
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of 30 x 40 pixels, 0.png to 5.png."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(6):
        small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
        PIL.Image.fromarray(small).resize((40, 30), PIL.Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    return folder


class Work:
    """One query, 0.png of ``folder``, as a worker explains it with ``models``."""

    def __init__(
        self, models: Models, folder: Path, methods: Sequence[Method], *, perturb: Perturb = "query", masks: int = 7
    ) -> None:
        self.models, self.folder = models, folder
        self.load = ImageLoader(Access((str(folder),)), ImageLimits(), models.bundle.resize)
        masked = ReferenceMasks(masks, "auto", 0) if perturb == "both" else None
        addresses = [str(folder / f"{number}.png") for number in range(6)]
        self.others = dict(embed(addresses, self.load, models, masked, addresses))
        explainers = tuple(
            Explainer(method, method.fill, perturb, None if method.name == "mask" else masked) for method in methods
        )
        self.explaining = ExplanationSettings(explainers, map_size=models.bundle.resize.size)
        self.prepared = PreparedImage.of(self.load(addresses[0]), self.explaining, models, self.load)

    def matched(self, number: int, condition: str | None, side: Side = "query") -> Matched:
        """The query with the reference ``number``.png, under ``condition``."""
        other = self.others[str(self.folder / f"{number}.png")]
        assert isinstance(other, EmbeddedImage)
        first, second = (str(self.folder / "0.png"), other.address)[:: 1 if side == "query" else -1]
        return ExplanationTarget(
            Pair(f"p{number}{condition}", "q", f"r{number}", first, second, condition), side
        ), other

    def rows(self, matched: Sequence[Matched]) -> list[dict[str, Any]]:
        """The rows of ``matched``, none of which fails."""
        rows = list(explanation_rows(self.prepared, matched))
        assert not any(isinstance(row, Failure) for row in rows), rows
        return rows  # type: ignore[return-value]


def check_equal(joint: Mapping[str, Any], alone: Mapping[str, Any], tolerance: float = 1e-6) -> None:
    """Two rows say the same, but for what names the bundle; numbers are compared against the largest of a map."""
    assert joint.keys() == alone.keys()
    ours, theirs = np.array(joint["map"]), np.array(alone["map"])
    scale = max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, rtol=0)
    for key in ("similarity", "bias"):
        size = max(1.0, abs(alone["similarity"]))
        assert joint[key] == (None if alone[key] is None else pytest.approx(alone[key], abs=tolerance * size))
    for key in ("method", "side", "perturbed", "passes", "fill", "explainer_id", "query", "reference", "query_id"):
        assert joint[key] == alone[key]
    assert {one["name"]: one["confidence"] for one in joint["top"]} == {
        one["name"]: one["confidence"] for one in alone["top"]
    }


def bits(row: Mapping[str, Any]) -> dict[str, Any]:
    """All columns, such that two rows compare equal only if they are equal to the bit."""
    return {**row, "map": np.array(row["map"]).tobytes()}


@pytest.mark.parametrize("side", ["query", "reference"])
@pytest.mark.parametrize("perturb", ["query", "both"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_maps_are_those_of_a_bundle_of_each_condition_alone(
    served: Mapping[str, Served], pictures: Path, function: SimilarityFunction, perturb: Perturb, side: Side
) -> None:
    """The bundle's graph knows of no condition; the other bundles' graphs end in the mask, and the norm behind it."""
    methods = CLOSED if function != "euclidean" else MASKED
    joint = Work(served[function].joint, pictures, methods, perturb=perturb)
    asked = [(number, name) for number in (1, 2, 0) for name in CONDITIONS]
    found = {
        (row["method"], row["pair_id"]): row
        for row in joint.rows([joint.matched(number, name, side) for number, name in asked])
    }
    assert len(found) == len(methods) * len(asked)
    differ = set()
    for name, models in served[function].alone.items():
        alone = Work(models, pictures, methods, perturb=perturb)
        for number in (1, 2, 0):
            for row in alone.rows([alone.matched(number, None, side)]):
                ours = found[row["method"], f"p{number}{name}"]
                assert ours["condition"] == name
                check_equal(ours, {**row, "condition": name}, 2e-6)
                differ.add((row["method"], number, np.round(row["map"], 3).tobytes()))
                if function != "cosine" and perturb == "query" and row["method"] != "decomposition":
                    # one product in float32, on either side of the graph's end
                    np.testing.assert_array_equal(ours["map"], row["map"])
                    assert ours["similarity"] == row["similarity"]
    # sbsm shows no negative values: a map of zeros is no news
    assert len(differ) >= (len(methods) - 1) * len(asked)


@dataclass(frozen=True)
class Keyless(ConfiguredMethod):
    """Sliding windows whose design has no key: it can share masks with no other."""

    name: ClassVar[str] = "sliding_window"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(masks=True)
    fill: ClassVar[str] = "auto"
    banks: ClassVar[int] = 0

    def cost(self, size: tuple[int, int]) -> MethodCost:
        return MethodCost(self.design(size, 0).n)

    def design(self, size: tuple[int, int], bank: int) -> Design:
        return WithoutKey(SlidingWindowMethod(window=4, stride=4).design(size, bank))

    def prepare(self, image: ImageView, references: References | None = None) -> Saliency:
        design = image.design(self)
        return Perturbation(design, image.base, image.perturbed(design), image.function)


@dataclass(frozen=True)
class WithoutKey:
    inner: Design
    key: None = None

    @property
    def n(self) -> int:
        return self.inner.n

    @property
    def size(self) -> tuple[int, int]:
        return self.inner.size

    def masks(self, start: int, stop: int) -> Float32:
        return self.inner.masks(start, stop)

    def estimate(self, scores: Float64, base: Float64) -> Float64:
        return self.inner.estimate(scores, base)


@pytest.mark.parametrize("perturb", ["query", "both"])
@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (RiseMethod(masks=40, cells=4), 40),
        (RiseMethod(masks=40, cells=4, banks=2), 40),
        (SlidingWindowMethod(window=4, stride=4), 12),
        (SbsmMethod(window=4, stride=4), 12),
        (LimeMethod(samples=30), 30),
        (DecompositionMethod(), 1),
        (Keyless(), 12),
    ],
    ids=["rise", "rise of two banks", "sliding_window", "sbsm", "lime", "decomposition", "no key"],
)
def test_passes_are_run_once_for_all_conditions(
    served: Mapping[str, Served], pictures: Path, method: Method, passes: int, perturb: Perturb
) -> None:
    for conditions in (["colour"], list(CONDITIONS)):
        work = Work(served["cosine"].joint, pictures, [method], perturb=perturb)
        for _ in range(2):  # as two chunks of references would
            rows = work.rows([work.matched(number, name) for number in (1, 2) for name in conditions])
            assert len(rows) == 2 * len(conditions)
            of_reference = 7 if perturb == "both" else 0
            assert {row["passes"] for row in rows} == {passes + (method.name != "decomposition") + of_reference}
        assert work.prepared.passes == passes + 1


@pytest.mark.parametrize("perturb", ["query", "both"])
def test_permuting_and_splitting_references_of_many_conditions_changes_nothing(
    served: Mapping[str, Served], pictures: Path, perturb: Perturb
) -> None:
    work = Work(served["cosine"].joint, pictures, CLOSED, perturb=perturb)
    asked = [(number, name) for number in range(4) for name in CONDITIONS]
    matched = [work.matched(number, name) for number, name in asked]
    whole = {(row["pair_id"], row["method"]): bits(row) for row in work.rows(matched)}
    assert len(whole) == len(asked) * len(CLOSED)
    rng = np.random.default_rng(0)
    for _ in range(3):
        order = [matched[at] for at in rng.permutation(len(matched))]
        cut, end = sorted(rng.integers(1, len(order), 2))
        parts = [part for part in (order[:cut], order[cut:end], order[end:]) if part]
        again = [row for part in parts for row in work.rows(part)]
        assert {(row["pair_id"], row["method"]): bits(row) for row in again} == whole


def test_a_condition_of_ones_is_no_condition(
    served: Mapping[str, Served], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is asked without a condition is the network's own similarity, whatever the bundle has."""
    joint = served["dot"].joint
    monkeypatch.setitem(vars(joint.bundle), "conditions", {**CONDITIONS, "all": (1.0,) * D})
    work = Work(joint, pictures, CLOSED)
    plain, ones = (work.rows([work.matched(1, name)]) for name in (None, "all"))
    for one, other in zip(plain, ones, strict=True):
        np.testing.assert_array_equal(one["map"], other["map"])
        assert one["similarity"] == other["similarity"]


def test_a_pair_says_which_of_the_conditions() -> None:
    def outcome(condition: str | None, *conditions: str) -> Pair | Failure:
        return check_condition(Pair("p", "q", "r", condition=condition), conditions)

    assert isinstance(outcome(None), Pair)
    assert isinstance(outcome("shape", "colour", "shape"), Pair)
    missing = outcome(None, *(f"c{number}" for number in range(8)))
    assert isinstance(missing, Failure)
    assert missing.reason == "unknown_condition"
    assert (
        missing.message == "no condition: the bundle has the conditions 'c0', 'c1', 'c2', 'c3', 'c4' and 3 more; "
        "name one of them"
    )
    for conditions, says in (
        (("colour",), "'size': the bundle has the conditions 'colour'"),
        ((), "has no conditions"),
    ):
        other = outcome("size", *conditions)
        assert isinstance(other, Failure)
        assert (other.reason, other.pair_id) == ("unknown_condition", "p")
        assert says in other.message


def options(**changes: Any) -> AuditOptions:
    given: dict[str, Any] = {"manifest": ("m.csv",), "bundle": "b", "out": "o", "run_id": "r", "max_pixels": 1000}
    return AuditOptions(**{**given, **changes})


def test_converging_is_for_one_condition(served: Mapping[str, Served]) -> None:
    joint, alone = served["cosine"].joint.bundle, served["cosine"].alone["shape"].bundle
    for changes in ({"converge": 0.9}, {"settings": {"rise.converge": "0.9"}}):
        check_bundle(options(**changes), alone)
        with pytest.raises(UsageError, match=r"--converge .*'colour', 'shape', 'texture'.* with --masks"):
            check_bundle(options(**changes), joint)
    check_bundle(options(), joint)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_memory_plan_has_room_for_conditions(served: Mapping[str, Served], function: SimilarityFunction) -> None:
    few = served[function].joint.bundle
    none = replace(few, conditions={})
    many = replace(few, conditions={f"c{number}": (1.0,) * D for number in range(12)})

    def embeddings(bundle: Bundle, **changes: Any) -> int:
        return plan_memory(options(masks=100, **changes), bundle, "cpu")[0].embeddings

    # one copy in float32, of whatever one condition there is: of masked versions, and of 256 references
    assert embeddings(few) - embeddings(none) == 4 * (101 + 256) * D
    assert embeddings(many) == embeddings(few)
    kept = {"cosine": (3, 10), "dot": (1, 1), "euclidean": (10, 10)}[function]
    compared = 10 if function == "euclidean" else 1
    for bundle, rows in zip((few, many), kept, strict=True):
        both = embeddings(bundle, perturb="both", reference_masks=10) - embeddings(bundle)
        assert both == 20 * 10 * D + 256 * (4 * rows + 8 * compared) * D


MIXED = ["--method", "rise,sliding_window,decomposition", "--set", "rise.cells=4", "--set", "sliding_window.window=4"]
MIXED += ["--set", "sliding_window.stride=4", "--perturb", "both", "--reference-masks", "6", "--explain", "both"]


@pytest.fixture(scope="module")
def manifest(drawn: Path) -> list[dict[str, str]]:
    """Rows of two queries, each with its references under all conditions."""
    rows = read_csv(drawn / "pairs.csv")
    catalogue = {row["id"]: row["image"] for row in read_csv(drawn / "catalogue.csv")}
    damaged = {row["image"] for row in read_csv(drawn / "catalogue.csv") if not usable(drawn / row["image"])}
    kept = [
        row
        for row in rows
        if all((drawn / catalogue[row[side]]).is_file() and catalogue[row[side]] not in damaged for side in IDS)
    ]
    names = list(dict.fromkeys(row["query_id"] for row in kept))[:2]
    return [
        {"query_id": row["query_id"], "reference_id": row["reference_id"], "condition": name}
        for row in kept
        if row["query_id"] in names
        for name in CONDITIONS
    ]


IDS = ("query_id", "reference_id")


def usable(path: Path) -> bool:
    try:
        with PIL.Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


def explained(
    drawn: Path, bundle: Path, out: Path, run_id: str, rows: Sequence[Mapping[str, str]], *more: str
) -> tuple[dict[tuple[str, ...], dict[str, Any]], dict[str, Any]]:
    """The explanations of an audit of ``rows`` by pair, condition, method and side, and the run's row."""
    path = write_csv(drawn / f"{run_id}.csv", rows)
    catalogue = ["--catalogue", str(drawn / "catalogue.csv")]
    assert audit(path, bundle, out, run_id, *catalogue, *more) == 0
    (run,) = table(out, "runs", run_id)
    keys = (*IDS, "condition", "method", "side")
    return {tuple(row[key] for key in keys): row for row in table(out, "explanations", run_id)}, run


@pytest.mark.engine
def test_an_audit_of_many_conditions_is_that_of_each_and_costs_as_much_as_one(
    folders: Path, drawn: Path, manifest: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, run = explained(drawn, folders / "cosine" / "all", tmp_path, "mixed", manifest, *MIXED)
    assert len(found) == len(manifest) * 3 * 2
    assert run["pairs_failed"] == 0
    for name in ("shape", "texture"):
        plain = [{key: row[key] for key in IDS} for row in manifest if row["condition"] == name]
        alone, cost = explained(drawn, folders / "cosine" / name, tmp_path, name, plain, *MIXED)
        assert len(alone) == len(plain) * 3 * 2
        assert cost["forward_passes"] == run["forward_passes"] > 0
        for (query, reference, _, method, side), row in alone.items():
            check_equal(found[query, reference, name, method, side], row, 2e-6)
    monkeypatch.setattr("transforms.explaining.explain_image.CHUNK", 4)
    turned, _ = explained(drawn, folders / "cosine" / "all", tmp_path, "turned", manifest[::-1], *MIXED, "--batch", "5")
    left_out = ("run_id", "started", "finished")
    for key, row in found.items():
        assert {name: value for name, value in turned[key].items() if name not in left_out} == {
            name: value for name, value in row.items() if name not in left_out
        }


@pytest.mark.engine
def test_unknown_and_missing_conditions_fail_alone(
    folders: Path, drawn: Path, manifest: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [{**row, "condition": given} for row, given in zip(manifest[:2], ("", "size"), strict=True)]
    more = ["--max-failure-rate", "1", "--method", "sliding_window", "--set", "sliding_window.window=4"]
    found, run = explained(drawn, folders / "dot" / "all", tmp_path, "some", [*wrong, *manifest[2:]], *more)
    assert (run["pairs_failed"], run["pairs_explained"]) == (2, len(manifest) - 2)
    assert len(found) == len(manifest) - 2
    failures = table(tmp_path, "failures", "some")
    assert {row["reason"] for row in failures} == {"unknown_condition"}
    said = sorted(row["message"] for row in failures)
    assert said[0].startswith("condition 'size': the bundle has the conditions 'colour', 'shape', 'texture'")
    assert said[1].startswith("no condition: the bundle has the conditions 'colour'")
    assert "conditions 'colour', 'shape', 'texture'" in capsys.readouterr().out
    more = ["--catalogue", str(drawn / "catalogue.csv"), "--converge", "0.9"]
    assert audit(drawn / "some.csv", folders / "dot" / "all", tmp_path, "converging", *more) == 2
    assert "leave --converge out" in capsys.readouterr().err


SLOPES: list[Method] = [GradientMethod(), IntegratedGradientsMethod(steps=3), MaskMethod(steps=4, factor=4)]


def layers(mask: Sequence[float] | None = None) -> Any:
    """A small torch network whose embedding is multiplied by ``mask`` at its end."""
    from torch import nn, random, tensor

    class Times(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if mask is None else x * tensor(mask, dtype=x.dtype)

    with random.fork_rng(devices=[]):
        random.manual_seed(5)
        made = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, D), Times()
        )
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def sloped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles with a gradient, traced from torch: "all", whose graph takes a condition, and "texture"."""
    torch = pytest.importorskip("torch", reason="needs the extra export")
    from export.bundling.from_torch import to_onnx
    from export.bundling.gradient import trace_to_onnx

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sloped")
    embedding = to_onnx(layers(), SIZE, ("embedding",))
    for name in (None, "texture"):
        similarity = onnx.ModelProto()
        similarity.CopyFrom(embedding)
        made = build(
            folder / (name or "all"),
            BundleSpec(
                SimilarityGraph(similarity if name is None else ending_in(similarity, CONDITIONS[name]), PREPROCESSING),
                Resize(SIZE, "squash"),
                gradient=trace_to_onnx(layers(CONDITIONS[name] if name else None), SIZE, "cosine", name is None),
                conditions=CONDITIONS if name is None else {},
            ),
        )
        assert made.gradient is not None, made.missing
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("perturb", ["query", "both"])
def test_slopes_are_those_of_a_bundle_of_each_condition_alone(sloped: Path, pictures: Path, perturb: Perturb) -> None:
    works = {
        name: Work(Models(Serving(str(sloped / name), graphs=("gradient",))), pictures, SLOPES, perturb=perturb)
        for name in ("all", "texture")
    }
    joint = works["all"].rows([works["all"].matched(at, name) for at in (1, 2) for name in ("texture", "colour")])
    found = {(row["method"], row["pair_id"]): row for row in joint}
    for number in (1, 2):
        for row in works["texture"].rows([works["texture"].matched(number, None)]):
            ours, other = (found.pop((row["method"], f"p{number}{name}")) for name in ("texture", "colour"))
            assert np.ptp(row["map"]) > 0
            largest = float(np.abs(row["map"]).max())
            np.testing.assert_allclose(ours["map"], row["map"], atol=1e-3 * largest, rtol=0)
            assert np.abs(other["map"] - row["map"]).max() > 0.01 * largest
            assert (ours["passes"], ours["similarity"]) == (row["passes"], pytest.approx(row["similarity"]))
    assert not found
    assert works["all"].prepared.passes == 1 + sum(row["passes"] for row in joint) - counted_elsewhere(joint)


def counted_elsewhere(rows: Sequence[Mapping[str, Any]]) -> int:
    """Passes of masked references, which are run once an image, where images are embedded."""
    return sum(7 for row in rows if row["perturbed"] == "both" and row["method"] != "mask")


@pytest.mark.usefixtures("one_torch_thread")
def test_the_gradient_of_a_condition(sloped: Path, tmp_path: Path) -> None:
    from export.bundling.parity import gradient_parity
    from export.training.networks.backbones import Normalisation

    joint = bundles.read(str(sloped / "all"))
    normalisation = Normalisation(PREPROCESSING.scale, PREPROCESSING.mean, PREPROCESSING.std)
    error, correlation = gradient_parity(joint, sloped / "all", layers(), normalisation)
    assert error < 1e-5
    assert correlation > 0.9999
    # the graph's default is ones, and a graph that takes no condition is no graph for a bundle that has some
    rng = np.random.default_rng(0)
    image, fill = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), np.zeros((1, 1, 1, 3), np.float32)
    masks, references = rng.random((3, *SIZE), dtype=np.float32), vectors(3, 0, unit=True)
    model = GradientModel(joint, sloped / "all", "cpu", 1, 2)
    results = [
        model.at(image, fill, condition)(masks, references)
        for condition in (None, np.ones(D, np.float32), np.array(CONDITIONS["shape"], np.float32))
    ]
    for plain, ones, shape in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, ones)
        assert np.abs(plain - shape).max() > 1e-3 * np.abs(plain).max()
    np.testing.assert_allclose(np.linalg.norm(results[2][2], axis=1), 1, atol=1e-6)
    assert not results[2][2][:, [0, 4]].any()  # where the mask of shape is 0
    alone = bundles.read(str(sloped / "texture"))
    GradientModel(alone, sloped / "texture", "cpu", 1, 2)
    with pytest.raises(BundleError, match="its gradient graph takes none; export the bundle again"):
        GradientModel(replace(alone, conditions=CONDITIONS), sloped / "texture", "cpu", 1, 2)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_in_float64_the_trace_under_a_condition_is_torchs_gradient(function: SimilarityFunction) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra export")
    from export.bundling.gradient import trace

    traced = trace(layers(), SIZE, function, dtype=torch.float64, conditional=True)
    assert traced.conditional
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(4, 3, *SIZE))).requires_grad_(True)
    references = torch.from_numpy(rng.normal(size=(4, D)))
    for mask in CONDITIONS.values():
        embedding = layers(mask).double()(x)
        if function == "cosine":
            embedding = embedding / embedding.norm(dim=1, keepdim=True)
        scores = (embedding * references).sum(1)
        if function == "euclidean":
            scores = -torch.linalg.vector_norm(embedding - references, dim=1)
        (slope,) = torch.autograd.grad(scores.sum(), x)
        found = traced.core(x.detach(), references, torch.tensor(mask, dtype=torch.float64)[None])
        for ours, theirs in zip(found, (scores, slope, embedding), strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-6, atol=1e-12)
