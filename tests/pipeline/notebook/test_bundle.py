"""``whymatch.Bundle``: what it explains is what an audit writes, and every way to hand it an image is the same."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import whymatch
from pipeline.notebook.photographs import Photographs
from tests.support.audits import audit, read_csv, table
from transforms import tables
from transforms.core.imaging.images import decode
from transforms.core.saliency.explainer import Explainer, ReferenceMasks
from transforms.core.saliency.mask import MaskMethod
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.inputs.random_references import of_catalogue

SMALL = RiseMethod(masks=64, cells=4)
NOT_OF_THE_PAIR = {
    "pair_id",
    "query_id",
    "reference_id",
    "rank",
    "run_id",
    "schema_version",
    "weight",
    "stratum",
    "region_shares",
}


@pytest.fixture(scope="module")
def opened(bundle: Path) -> whymatch.Bundle:
    return whymatch.Bundle.load(bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def photographs(drawn: Path) -> list[str]:
    return [str(drawn / row["image"]) for row in read_csv(drawn / "catalogue.csv")]


@pytest.mark.engine
def test_it_explains_what_an_audit_writes(opened: whymatch.Bundle, bundle: Path, drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    catalogue = str(drawn / "catalogue.csv")
    more = ("--catalogue", catalogue, "--masks", "64", "--set", "rise.cells=4")
    audit(drawn / "pairs.csv", bundle, out, "r1", *more, "--max-failure-rate", "1")
    rows = table(out, "explanations", "r1")
    first = [row for row in rows if row["query_id"] == rows[0]["query_id"]]
    random = of_catalogue(catalogue, ("query",), 0)["query"]
    found = opened.explain(
        first[0]["query"],
        [row["reference"] for row in first],
        method=SMALL,
        random_references=random,
        thresholds=whymatch.read_run(out, "r1").thresholds,
    )
    assert len(found) == len(first) > 1
    for one, row in zip(found, first, strict=True):
        arrow: Any = tables.to_arrow("explanations", [{**one.row}]).to_pylist()[0]
        known = {"on_query", "on_reference"}  # what the catalogue says, which nobody asked here
        for attribute in (*arrow["top"], *row["top"]):
            for name in known:
                attribute.pop(name)
        assert {k: v for k, v in arrow.items() if k not in NOT_OF_THE_PAIR} == {
            k: v for k, v in row.items() if k not in NOT_OF_THE_PAIR
        }
        assert one.similarity == row["similarity"]
        assert one.verdict.explained == row["explained"]
        assert (one.map.ravel() == np.array(row["map"], np.float32)).all()


def test_an_image_is_its_content(opened: whymatch.Bundle, photographs: list[str], tmp_path: Path) -> None:
    with PIL.Image.open(photographs[0]) as picture:
        rgb = picture.convert("RGB")
    rgb.save(tmp_path / "query.png")
    forms: list[Any] = [tmp_path / "query.png", (tmp_path / "query.png").read_bytes(), rgb, np.asarray(rgb)]
    found = [opened.explain(form, photographs[1], method=SMALL)[0] for form in forms]
    assert len({one.similarity for one in found}) == 1
    assert opened.embed(forms).shape == (4, opened.embed(photographs[0]).shape[1])
    shapes = {one.map_on_photograph.shape for one in found}
    assert shapes == {(rgb.height, rgb.width)}
    # which masks an image draws follows from its bytes: equal bytes have equal maps
    assert all((one.map == found[0].map).all() for one in found)


@pytest.mark.parametrize(
    ("mode", "fill", "seen"),
    [
        ("L", 90, (90, 90, 90)),
        ("I;16", 90 * 256, (90, 90, 90)),
        ("CMYK", (0, 255, 0, 0), (255, 0, 255)),
        ("RGBa", (0, 0, 0, 0), (255, 255, 255)),
        ("PA", 0, (255, 255, 255)),
    ],
)
def test_modes_that_pillow_has_are_seen_as_they_look(mode: str, fill: Any, seen: tuple[int, ...]) -> None:
    photographs = Photographs()
    name = photographs.add(PIL.Image.new(mode, (5, 3), fill))
    pixels = decode(photographs.read(name))
    assert pixels.shape == (3, 5, 3)
    assert {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} == {seen}


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (PIL.Image.new("I", (5, 3), 40_000), "mode I cannot be used, as it does not say what is white"),
        (PIL.Image.new("F", (5, 3), 0.5), "mode F cannot be used"),
        (PIL.Image.new("RGB", (0, 0)), "the image cannot be used: cannot write empty image"),
        (np.zeros((0, 4, 3), np.uint8), "the image cannot be used"),
    ],
    ids=["I", "F", "empty", "no rows"],
)
def test_images_that_nobody_can_see_are_refused(image: Any, said: str) -> None:
    with pytest.raises(whymatch.UsageError, match=said):
        Photographs().add(image)


@pytest.mark.parametrize(
    ("explainer", "said"),
    [
        (Explainer(SMALL, "none"), "--fill: a fill is mean, auto, blur or #rrggbb, not 'none'"),
        (Explainer(SMALL, "mean", "both"), "--perturb both averages rise over masked versions of the other image"),
        (Explainer(SMALL, "mean", "both", ReferenceMasks(4, "zzz", 0)), "--fill: .* not 'zzz'"),
    ],
    ids=["no fill", "no reference masks", "their fill"],
)
def test_settings_that_do_not_go_together_are_refused(
    explainer: Explainer, said: str, opened: whymatch.Bundle, photographs: list[str]
) -> None:
    with pytest.raises(whymatch.UsageError, match=said):
        opened.explain(photographs[0], photographs[1], method=explainer)


def test_sides_and_order(opened: whymatch.Bundle, photographs: list[str]) -> None:
    both = opened.explain(photographs[0], photographs[1:4], method=SMALL, sides=("query", "reference"))
    assert [(one.reference, one.side) for one in both] == [
        (reference, side) for reference in photographs[1:4] for side in ("query", "reference")
    ]
    (alone,) = opened.explain(photographs[0], photographs[2:3], method=SMALL)
    assert (alone.map == both[2].map).all()
    turned = opened.explain(photographs[2], photographs[0], method=SMALL)[0]
    assert (turned.map == both[3].map).all()


def test_what_cannot_be_explained_is_said(opened: whymatch.Bundle, photographs: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    found = opened.explain(photographs[0], [tmp_path / "empty.jpg", photographs[1], tmp_path / "no.jpg"], method=SMALL)
    assert [one.reference for one in found] == [photographs[1]]
    assert [(one.reference, one.reason) for one in found.failures] == [
        (str(tmp_path / "empty.jpg"), "empty"),
        (str(tmp_path / "no.jpg"), "not_found"),
    ]
    assert repr(found) == "<1 explanations, 2 failed>"
    nothing = opened.explain(tmp_path / "no.jpg", photographs[:2], method=SMALL)
    assert [one.reason for one in nothing.failures] == ["not_found"] * 2
    assert nothing._repr_png_() is None
    with pytest.raises(whymatch.UsageError, match=r"nothing lies at .*no\.jpg"):
        opened.embed([photographs[0], tmp_path / "no.jpg"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "wise"}, "there is no method 'wise'; there are rise, "),
        ({"sides": ("both",)}, r"sides are among query, reference, not \('both',\)"),
        ({"condition": "shoes"}, "the condition is none: this bundle has no conditions, not 'shoes'"),
        ({"references": []}, "explain needs a reference at least"),
        ({"references": [3]}, r"an image is an address, bytes, pixels uint8 \[H, W, 3\] or Pillow's, not int"),
        ({"references": ["a.jpg", ""]}, "an image's address is empty"),
        ({"method": Explainer(SMALL, "zzz")}, "--fill: "),
        (
            {"method": Explainer(MaskMethod(), "blur", contrast=True)},
            "--contrast needs a method that compares with any",
        ),
        ({"method": Explainer(SMALL, "auto", "both", ReferenceMasks(4, "auto", 0), True)}, "leave --perturb both out"),
        ({"query": np.zeros((4, 4), np.uint8)}, r"an image is uint8 \[H, W, 3\] \(RGB, 0 to 255\), not uint8 \[4, 4\]"),
        ({"method": "gradient_x_input"}, "needs the bundle's gradient, and it has none"),
    ],
)
def test_wrong_use(opened: whymatch.Bundle, photographs: list[str], changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"query": photographs[0], "references": photographs[1:2], "method": SMALL}
    with pytest.raises(whymatch.UsageError, match=message):
        opened.explain(**{**given, **changed})


def test_verdicts_need_random_references_and_thresholds(opened: whymatch.Bundle, photographs: list[str]) -> None:
    (one,) = opened.explain(photographs[0], photographs[1], method=SMALL, random_references=photographs[10:40])
    assert one.verdict.explained is None
    assert str(one.verdict).startswith("cannot be judged")
    assert one.row["null_share"] is not None
    with pytest.raises(AttributeError):
        one.verdict.explained = True  # type: ignore[misc]


def test_masked_references_are_those_of_an_audit(opened: whymatch.Bundle, photographs: list[str]) -> None:
    """Averaged over masked versions of the reference: another map than of the reference as it is, and more passes."""
    both = Explainer(SMALL, "auto", "both", ReferenceMasks(6, "auto", 0))
    (averaged,) = opened.explain(photographs[0], photographs[1], method=both)
    (plain,) = opened.explain(photographs[0], photographs[1], method=SMALL)
    assert (averaged.map != plain.map).any()
    assert averaged.row["passes"] == plain.row["passes"] + 6
    assert averaged.similarity == plain.similarity


def test_what_is_asked_twice_is_done_once(opened: whymatch.Bundle, photographs: list[str]) -> None:
    found = opened.explain(photographs[0], photographs[1:3], method=SMALL, sides=("query", "query"))
    assert len(found) == 2
    assert isinstance(found[:1], whymatch.Explanations)
    assert found[:1].plot().size == found[0].plot().size
    with pytest.raises(whymatch.UsageError, match="there is no explanation to draw"):
        found[:0].plot()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"device": "gpu"}, "the device is one of cpu, cuda, auto, not 'gpu'"), ({"threads": 0}, "threads must be at")],
)
def test_wrong_loading(bundle: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(whymatch.UsageError, match=message):
        whymatch.Bundle.load(bundle, **given)


def test_no_credentials_are_shown(opened: whymatch.Bundle, photographs: list[str]) -> None:
    found = opened.explain(photographs[0], "https://user:s3cr3t@h.example/a.jpg?sig=s3cr3t", method=SMALL)
    assert [one.reason for one in found.failures] == ["address_refused"]
    assert "s3cr3t" not in repr(found.failures)


def test_a_photograph_that_changed_is_not_drawn_under_the_map(
    opened: whymatch.Bundle, photographs: list[str], tmp_path: Path
) -> None:
    place = tmp_path / "query.jpg"
    place.write_bytes(Path(photographs[0]).read_bytes())
    (one,) = opened.explain(place, photographs[1], method=SMALL)
    before = one.plot()
    place.write_bytes(Path(photographs[2]).read_bytes())
    assert one.plot().tobytes() != before.tobytes()
    tile = np.asarray(one.plot())[34 + 78, 16 + 150]  # the right edge of the first tile
    assert tuple(tile) == (232, 234, 237)


def test_an_explanation_keeps_its_own_two_images_alone(opened: whymatch.Bundle, photographs: list[str]) -> None:
    data = [Path(name).read_bytes() for name in photographs[:40]]
    (one,) = opened.explain(data[0], data[1], method=SMALL, random_references=data[2:])
    assert len(pickle.dumps(one)) < 40_000 + len(data[0]) + len(data[1])


def test_thresholds_are_of_one_model_and_its_settings(opened: whymatch.Bundle, photographs: list[str]) -> None:
    explainer = Explainer(SMALL, "auto")
    of_another = whymatch.RunThresholds("m0", frozenset([explainer.id]), {})
    with pytest.raises(whymatch.UsageError, match="the thresholds are of the model m0, and this one is m"):
        opened.explain(photographs[0], photographs[1], method=SMALL, thresholds=of_another)
    others = whymatch.RunThresholds(opened.model_id, frozenset(["e0"]), {})
    with pytest.raises(whymatch.UsageError, match="of other settings than rise has here"):
        opened.explain(photographs[0], photographs[1], method=SMALL, thresholds=others)


def test_a_contrast_is_an_explainers(opened: whymatch.Bundle, photographs: list[str]) -> None:
    method = SlidingWindowMethod(window=4, stride=2)
    contrast = Explainer(method, "mean", contrast=True)
    (less,) = opened.explain(photographs[0], photographs[1], method=contrast, random_references=photographs[10:40])
    (plain,) = opened.explain(photographs[0], photographs[1], method=Explainer(method, "mean"))
    assert less.similarity == plain.similarity
    assert (less.map != plain.map).any()
    few = opened.explain(photographs[0], photographs[1], method=contrast)
    assert [one.reason for one in few.failures] == ["no_null"]


def test_pictures(opened: whymatch.Bundle, photographs: list[str]) -> None:
    found = opened.explain(photographs[0], photographs[1:3], method=SMALL)
    for shown, width in ((found[0]._repr_png_(), 1), (found._repr_png_(), 2)):
        assert shown is not None
        with PIL.Image.open(io.BytesIO(shown)) as picture:
            assert picture.format == "PNG"
            assert 480 * width < picture.width < 520 * width + 40
    colours = found[0].plot().getcolors(2**20)
    assert colours is not None
    assert len(colours) > 1000  # photographs, and no grey tiles
    values = found[0].map_on_photograph
    with PIL.Image.open(photographs[0]) as picture:
        assert values.shape == (picture.height, picture.width)


def test_import_is_cheap() -> None:
    heavy = ("apache_beam", "onnxruntime", "numpy", "pyarrow", "pipeline", "transforms")
    code = f"import sys, whymatch; print([name for name in {heavy} if name in sys.modules], sorted(whymatch.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ['Bundle', ")
    code = "import sys, whymatch; whymatch.Bundle, whymatch.read_run; print('apache_beam' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    with pytest.raises(AttributeError, match="has no attribute 'explain_all'"):
        _ = whymatch.explain_all


def test_every_public_name_is_documented() -> None:
    for name in sorted({*whymatch.__all__} - {"ImageSource"}):  # an alias of types has none
        made = getattr(whymatch, name)
        assert made.__doc__, name
        for member in vars(made) if isinstance(made, type) else ():
            if not member.startswith("_") and callable(getattr(made, member)):
                assert getattr(made, member).__doc__, f"{name}.{member}"
