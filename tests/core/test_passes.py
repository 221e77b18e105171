"""The passes that are foretold are those that runs count."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import cli
from pipeline.audit.options import AuditOptions
from pipeline.options import command_line
from tests.support.audits import audit, table, write_csv
from tests.support.models.complete import ALL, SIZE
from tests.support.photographs import picture
from transforms.core.passes import Passes, passes
from transforms.core.saliency.decomposition import DecompositionMethod
from transforms.core.saliency.explainer import Explainer, ReferenceMasks
from transforms.core.saliency.gradients import GradientMethod, IntegratedGradientsMethod
from transforms.core.saliency.lime import LimeMethod
from transforms.core.saliency.mask import MaskMethod
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sbsm import SbsmMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.serving import bundle as bundles

# q0 has three references, one of which is a query itself; q1 has two, of which q0 has one too
PAIRS = [("0", "2"), ("0", "3"), ("0", "1"), ("1", "3"), ("1", "4")]
EXPLAINED = {"query": 2, "reference": 4, "both": 5}
"""Distinct images on the explained side."""
NULLS = False
"""Whether an audit explains a null beside each image's pairs."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(5):
        picture(folder / f"{seed}.png", seed)
    return write_csv(
        folder / "pairs.csv", [{"query": f"{one}.png", "reference": f"{other}.png"} for one, other in PAIRS]
    )


def of(*methods: object, perturb: str = "query", fill: str | None = None) -> list[Explainer]:
    """The explainers of an audit of these methods; 7 masks where both images are perturbed."""
    masked = ReferenceMasks(7, "auto", 0) if perturb == "both" else None
    made = []
    for method in methods:
        references = None if isinstance(method, MaskMethod) else masked
        made.append(Explainer(method, fill or method.fill, perturb, references))  # type: ignore[arg-type, attr-defined]
    return made


@pytest.mark.engine
@pytest.mark.parametrize(
    ("explain", "more"),
    [
        ("query", ["--method", "rise", "--set", "rise.cells=4"]),
        (
            "query",
            ["--method", "sliding_window", "--set", "sliding_window.window=7", "--set", "sliding_window.stride=5"],
        ),
        ("query", ["--method", "lime", "--set", "lime.samples=33"]),
        ("query", ["--method", "mask", "--set", "mask.steps=4"]),
        ("query", ["--method", "gradient_x_input"]),
        ("query", [*ALL, "--perturb", "both", "--reference-masks", "6"]),
        ("reference", ["--method", "mask", "--set", "mask.steps=4", "--perturb", "both"]),
        ("reference", ["--method", "rise", "--set", "rise.cells=4", "--perturb", "both"]),
        ("reference", ALL),
        ("both", ["--method", "decomposition,lime", "--set", "lime.samples=33"]),
        ("both", ["--method", "mask,integrated_gradients", "--set", "mask.steps=4", "--perturb", "both"]),
        ("both", ALL),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1][:30] + " both" * ("both" in value),
)
def test_a_run_takes_the_passes_that_were_foretold(
    complete: Path, manifest: Path, tmp_path: Path, more: list[str], explain: str
) -> None:
    assert audit(manifest, complete, tmp_path, "run", *more, "--explain", explain) == 0
    (run,) = table(tmp_path, "runs", "run")
    options = options_of(manifest, complete, *more, "--explain", explain)
    bundle = bundles.read(str(complete))
    others = {"query": 4, "reference": 2, "both": 5}[explain]
    free = any(explainer.compares_freely for explainer in options.explainers())
    found = passes(
        options.explainers(),
        options.sides(),
        size=bundle.resize.size,
        function=bundle.similarity_function,
        nulls=NULLS,
        random=others if free else 0,
    )
    total = found.total(explained=EXPLAINED[explain], pairs=5, images=5, others=others)
    assert run["forward_passes"] == total
    assert total <= found.most(queries=2, pairs=5)


def options_of(manifest: Path, bundle: Path, *more: str) -> AuditOptions:
    few = ["--masks", "40"] if "rise" in " ".join(more).split("--set")[0] else []
    given = ["--manifest", str(manifest), "--bundle", str(bundle), "--out", "o", "--run-id", "r", *few, *more]
    options = command_line.options_of(cli.build_parser().parse_args(["audit", *given]))
    assert isinstance(options, AuditOptions)
    return options


@pytest.mark.engine
def test_early_stops_take_at_most_what_was_foretold(complete: Path, manifest: Path, tmp_path: Path) -> None:
    more = ["--converge", "0.05", "--set", "rise.cells=2", "--set", "rise.masks=64"]
    assert cli.main(
        ["audit", "--manifest", str(manifest), "--bundle", str(complete), "--out", str(tmp_path), "--run-id", "run",
         "--device", "cpu", "--batch", "8", *more]
    ) == 0  # fmt: skip
    (run,) = table(tmp_path, "runs", "run")
    method = RiseMethod(masks=64, cells=2, converge=0.05)
    found = passes(of(method), ("query",), size=SIZE)
    assert found.at_most
    assert found.masks == 65
    assert 5 + 2 * (16 + 1) <= run["forward_passes"] < found.total(explained=2, pairs=5, images=5, others=4)


def test_equal_masks_are_counted_once() -> None:
    window, sbsm = SlidingWindowMethod(window=8, stride=8), SbsmMethod(window=8, stride=8)
    # 24 x 32: three rows of four windows
    assert passes(of(window), ("query",), size=(24, 32)).masks == 13
    assert passes(of(window, sbsm), ("query",), size=(24, 32)).masks == 13
    assert passes(of(window, SbsmMethod(window=8, stride=4)), ("query",), size=(24, 32)).masks == 13 + 5 * 7
    other_fill = [*of(window), *of(sbsm, fill="#ffffff")]
    assert passes(other_fill, ("query",), size=(24, 32)).masks == 25
    assert passes(of(LimeMethod(samples=9), LimeMethod(samples=9, ridge=2.0)), ("query",), size=(24, 32)).masks == 10
    assert passes(of(LimeMethod(samples=9), LimeMethod(samples=9, seed=1)), ("query",), size=(24, 32)).masks == 19
    both = of(RiseMethod(masks=40, cells=2), RiseMethod(masks=40, cells=2, converge=0.9))
    assert passes(both, ("query",), size=(24, 32)).masks == 81


def test_slopes_by_hand() -> None:
    methods = MaskMethod(steps=4), GradientMethod(), IntegratedGradientsMethod(steps=5)
    assert passes(of(*methods), ("query",), size=SIZE).gradient_passes == 4 + 1 + 5
    both = of(*methods, perturb="both")
    assert passes(both, ("query",), size=SIZE).gradient_passes == 2 * 4 + 1 + 5
    assert passes(both, ("query",), size=SIZE, function="dot").gradient_passes == 2 * 4 + 1 + 5
    # no mean stands for distances: every one of the 7 masked versions has its own slope
    assert passes(both, ("query",), size=SIZE, function="euclidean").gradient_passes == 2 * 4 + 7 + 35
    assert passes(of(*methods), ("query",), size=SIZE, function="euclidean").gradient_passes == 4 + 1 + 5


def test_nulls_cost_methods_of_masks_nothing() -> None:
    masks = of(RiseMethod(masks=40, cells=2), DecompositionMethod(), LimeMethod(samples=9))
    assert passes(masks, ("query",), size=SIZE, nulls=True) == passes(masks, ("query",), size=SIZE)
    follows_gradient = passes(
        of(RiseMethod(masks=40, cells=2), IntegratedGradientsMethod(steps=5)), ("query",), size=SIZE, nulls=True
    )
    assert (follows_gradient.per_query, follows_gradient.per_pair) == (1 + 41 + 5, 1 + 5)
    assert (follows_gradient.gradient_passes_per_query, follows_gradient.gradient_passes_per_pair) == (5, 5)
    assert follows_gradient.total(explained=2, pairs=3, images=5, others=3) == 5 + 2 * 46 + 3 * 5


def test_what_a_query_and_a_pair_cost_by_hand() -> None:
    some = Passes(("query",), masks=41, gradient_passes=3, other_masks=6)
    assert (some.per_query, some.per_pair) == (42, 1 + 6 + 3)
    some = Passes(("reference",), masks=41, gradient_passes=3, null_gradient_passes=2, other_masks=6)
    assert (some.per_query, some.per_pair) == (7, 1 + 43 + 3)
    assert (some.gradient_passes_per_query, some.gradient_passes_per_pair) == (0, 5)
    some = Passes(("query", "reference"), masks=41, gradient_passes=3, other_masks=6)
    assert (some.per_query, some.per_pair) == (48, 48 + 6)
    assert some.most(2, 5) == 2 * 48 + 5 * 54


@given(
    st.sampled_from([("query",), ("reference",), ("query", "reference")]),
    st.tuples(*[st.integers(0, 50)] * 4),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, unique=True),
)
def test_no_manifest_takes_more_than_the_most(
    sides: tuple[str, ...], counts: tuple[int, int, int, int], pairs: list[tuple[int, int]]
) -> None:
    """Images by number; those of the references may be queries' too."""
    masks, gradient_passes, nulls, others = counts
    found = Passes(sides, masks, gradient_passes, nulls, others)  # type: ignore[arg-type]
    side = {"query": {one for one, _ in pairs}, "reference": {other for _, other in pairs}}
    swapped = {"query": "reference", "reference": "query"}
    total = found.total(
        explained=len(set().union(*(side[name] for name in sides))),
        pairs=len(pairs),
        images=len(side["query"] | side["reference"]),
        others=len(set().union(*(side[swapped[name]] for name in sides))),
    )
    assert total <= found.most(len(side["query"]), len(pairs))
    apart = [(one, 10 + at) for at, (one, _) in enumerate(pairs)]  # no image is shared: the bound is reached
    explained = {"query": len(side["query"]), "reference": len(apart)}
    assert found.most(len(side["query"]), len(apart)) == found.total(
        explained=sum(explained[name] for name in sides),
        pairs=len(apart),
        images=sum(explained.values()),
        others=sum(explained[swapped[name]] for name in sides),
    )
