"""The runtime against the same networks in numpy, on images that are perturbed explicitly."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundling.build import build
from export.bundling.bundle_spec import BundleSpec, SimilarityGraph
from tests.support.models.bundles import PREPROCESSING, VOCABULARY, small_bundle
from tests.support.models.networks import SIZE, D, compute, network
from transforms.core.errors import BundleError, DeviceError, ModelFailed
from transforms.core.imaging.fill import make_fill
from transforms.core.imaging.images import Resize
from transforms.core.records import Float32, Float64, Image
from transforms.core.saliency.contract import Design
from transforms.core.saliency.rise import RiseMethod, rise
from transforms.core.saliency.sbsm import SbsmMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod, sliding_window
from transforms.serving import bundle as bundles
from transforms.serving.attribute_model import AttributeModel
from transforms.serving.bundle import Bundle
from transforms.serving.mask_bank import MaskBank
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import resolve_device, session
from transforms.serving.similarity_model import SimilarityModel

NO_CUDA = "CUDAExecutionProvider" not in ort.get_available_providers()
RISE: Design = rise(SIZE, masks=37, cells=4, seed=1)
WINDOWS: Design = sliding_window(SIZE, window=5, stride=4)
COLOR = np.array([250, 10, 128.5], np.float32).reshape(1, 1, 1, 3)


def photographs(count: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3)).astype(np.uint8)


def normalised(pixels: Float64) -> Float64:
    """Pixels [B,H,W,3] 0 to 255 as the network is fed them, [B,3,H,W]."""
    planes = (pixels * PREPROCESSING.scale - np.array(PREPROCESSING.mean)) / np.array(PREPROCESSING.std)
    return np.asarray(planes.transpose(0, 3, 1, 2))


def expected_embeddings(pixels: Float64) -> Float64:
    """Unit vectors [B, D] of :func:`tests.support.models.networks.compute` for pixels [B,H,W,3], 0 to 255."""
    rows = compute(normalised(pixels))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def perturbed_explicitly(image: Image, design: Design, fill: Float32) -> Float64:
    """The perturbed images themselves: float64 [N, H, W, 3], 0 to 255."""
    kept = design.masks(0, design.n).astype(np.float64)[..., None]
    return np.asarray(kept * image + (1 - kept) * fill)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A bundle without attributes whose network takes any batch."""
    folder = tmp_path_factory.mktemp("runtime") / "bare"
    return small_bundle(folder, attributes=False), folder


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """The same network with a batch of 4 written into it in a way that cannot be undone."""
    folder = tmp_path_factory.mktemp("runtime") / "fixed"
    made = build(
        folder,
        BundleSpec(SimilarityGraph(network(head="static_expand", batch=4), PREPROCESSING), Resize(SIZE, "squash")),
    )
    assert made.similarity.batch == 4
    return made, folder


def opened(made: tuple[Bundle, Path], batch: int = 8, threads: int = 1) -> SimilarityModel:
    return SimilarityModel(*made, "cpu", threads, batch)


def test_networks_whose_rows_depend_on_their_batch_get_full_ones(bare: tuple[Bundle, Path]) -> None:
    bundle, folder = bare
    assert bundle.similarity.batch_invariant
    assert opened(bare).fixed is None
    varying = replace(bundle, similarity=replace(bundle.similarity, batch_invariant=False))
    model = opened((varying, folder))
    assert model.fixed == 8
    np.testing.assert_array_equal(model.embed(photographs(11)), opened(bare).embed(photographs(11)))
    assert model.bank(RISE).pad


def test_embeddings_are_those_of_the_network(bare: tuple[Bundle, Path], fixed: tuple[Bundle, Path]) -> None:
    images = photographs(9)
    for made in (bare, fixed):
        found = opened(made).embed(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected_embeddings(images.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("design", [RISE, WINDOWS], ids=["rise", "sliding window"])
@pytest.mark.parametrize("kind", ["colour", "auto", "mean", "blur"])
def test_masked_embeddings_are_those_of_perturbed_images(
    bare: tuple[Bundle, Path], fixed: tuple[Bundle, Path], design: Design, kind: str
) -> None:
    image = photographs(1, seed=2)[0]
    fill = COLOR if kind == "colour" else make_fill(kind, image, bare[0].fill_mean)
    expected = expected_embeddings(perturbed_explicitly(image, design, fill))
    for made in (bare, fixed):
        model = opened(made)
        found = model.perturbed(image, model.bank(design), fill)
        assert found.dtype == np.float32
        assert found.shape == (design.n, D)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01  # the masks do move the embedding


@pytest.mark.parametrize("batch", [1, 3, 16, 37, 64])
@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_no_bit_depends_on_batches_threads_or_where_masks_lie(
    bare: tuple[Bundle, Path], batch: int, hold: bool, threads: int
) -> None:
    images, reference = photographs(5), opened(bare, 8)
    model = opened(bare, batch, threads)
    np.testing.assert_array_equal(model.embed(images), reference.embed(images))
    bank, expected = model.bank(RISE, hold), reference.bank(RISE)
    for image in images[:3]:  # the second and third find the bank as the first left it
        np.testing.assert_array_equal(model.perturbed(image, bank, COLOR), reference.perturbed(image, expected, COLOR))


def test_a_fixed_batch_is_filled_up_and_cut_off(bare: tuple[Bundle, Path], fixed: tuple[Bundle, Path]) -> None:
    model = opened(fixed, batch=16)
    assert model.batch == 4
    images = photographs(9)
    whole = model.embed(images)
    for count in (1, 3, 4, 5, 8):
        np.testing.assert_array_equal(model.embed(images[:count]), whole[:count])
    held, drawn = model.bank(RISE), model.bank(RISE, hold=False)
    found = model.perturbed(images[0], held, COLOR)
    np.testing.assert_array_equal(model.perturbed(images[0], drawn, COLOR), found)
    free = opened(bare)
    np.testing.assert_allclose(free.perturbed(images[0], free.bank(RISE), COLOR), found, atol=1e-6)
    # the same graph, told to be fixed: padding alone changes no bit
    padded = opened((replace(bare[0], similarity=replace(bare[0].similarity, batch=5)), bare[1]))
    np.testing.assert_array_equal(padded.embed(images), free.embed(images))


@dataclass(frozen=True)
class Stored:
    """A design of given masks [N, H, W]; those whose numbers ``broken`` lists cannot be drawn."""

    stored: Any
    broken: tuple[int, ...] | list[int] = ()
    key: str | None = None

    @property
    def n(self) -> int:
        return len(self.stored)

    @property
    def size(self) -> tuple[int, int]:
        return SIZE

    def masks(self, start: int, stop: int) -> Float32:
        if any(start <= at < stop for at in self.broken):
            raise MemoryError
        return np.asarray(self.stored[start:stop], np.float32)

    def estimate(self, scores: Float64, base: Float64) -> Float64:
        raise NotImplementedError


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(1, 20), st.lists(st.floats(0, 255, width=32), min_size=3, max_size=3))
def test_a_mask_of_ones_is_the_image_to_the_bit(
    bare: tuple[Bundle, Path], seed: int, batch: int, color: list[float]
) -> None:
    model, images = opened(bare, batch), photographs(2, seed)
    masks = np.stack([np.ones(SIZE), np.zeros(SIZE), np.ones(SIZE)])
    fill = np.array(color, np.float32).reshape(1, 1, 1, 3)
    found = model.perturbed(images[0], model.bank(Stored(masks)), fill)
    np.testing.assert_array_equal(found[[0, 2]], np.repeat(model.embed(images[:1]), 2, axis=0))
    other = model.perturbed(images[1], model.bank(Stored(masks)), fill)
    np.testing.assert_array_equal(found[1], other[1])  # nothing of the image is left


def test_images_and_fills_may_be_views(bare: tuple[Bundle, Path]) -> None:
    model = opened(bare)
    image = photographs(1)[0]
    wide = np.asfortranarray(image)
    fill = np.broadcast_to(COLOR, (1, *SIZE, 3))
    expected = model.perturbed(image, model.bank(RISE), np.ascontiguousarray(fill))
    for _ in range(3):
        np.testing.assert_array_equal(model.perturbed(wide, model.bank(RISE), fill), expected)
    np.testing.assert_array_equal(
        model.perturbed(image[:, ::-1], model.bank(RISE), COLOR),
        model.perturbed(image[:, ::-1].copy(), model.bank(RISE), COLOR),
    )
    np.testing.assert_array_equal(model.embed(photographs(6)[::2]), model.embed(photographs(6)[[0, 2, 4]]))


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("pad", [True, False])
def test_a_bank_is_cut_into_batches(hold: bool, pad: bool) -> None:
    masks = np.random.default_rng(0).random((7, *SIZE)).astype(np.float32)
    bank = MaskBank(Stored(masks), batch=3, hold=hold, pad=pad)
    blocks = [(block.numpy().copy(), count) for block, count in bank]  # a view does not keep its block alive
    assert [count for _, count in blocks] == [3, 3, 1]
    assert [block.shape for block, _ in blocks] == [(rows, *SIZE, 1) for rows in (3, 3, 3 if pad else 1)]
    np.testing.assert_array_equal(np.concatenate([block[:count, ..., 0] for block, count in blocks]), masks)
    assert (blocks[2][0][1:] == 1).all()
    same = [first is second for (first, _), (second, _) in zip(bank, bank, strict=True)]
    assert same == [hold] * 3


@pytest.mark.parametrize("hold", [True, False])
def test_a_query_that_fails_half_way_leaves_a_whole_bank(bare: tuple[Bundle, Path], hold: bool) -> None:
    broken: list[int] = [5]
    masks = RISE.masks(0, 8)
    model, image = opened(bare, 2), photographs(1)[0]
    bank = model.bank(Stored(masks, broken), hold)
    with pytest.raises(ModelFailed, match="MemoryError"):
        model.perturbed(image, bank, COLOR)
    broken.clear()
    expected = model.perturbed(image, model.bank(Stored(masks)), COLOR)
    np.testing.assert_array_equal(model.perturbed(image, bank, COLOR), expected)
    next(iter(bank))  # a reader that stops early
    np.testing.assert_array_equal(model.perturbed(image, bank, COLOR), expected)


def test_threads_share_a_model_and_its_bank(bare: tuple[Bundle, Path]) -> None:
    images = photographs(12)
    alone = opened(bare, 2)
    expected = [alone.perturbed(image, alone.bank(RISE), COLOR) for image in images]
    for _ in range(3):
        model = opened(bare, 2)
        bank, barrier = model.bank(RISE), threading.Barrier(4)

        def explain(image: Image, model: SimilarityModel = model, bank: MaskBank = bank) -> Float32:
            return model.perturbed(image, bank, COLOR)

        with ThreadPoolExecutor(4, initializer=barrier.wait) as pool:
            for found, wanted in zip(pool.map(explain, images), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


def test_no_images_have_no_embeddings(bare: tuple[Bundle, Path]) -> None:
    found = opened(bare).embed(photographs(0))
    assert found.shape == (0, D)
    assert found.dtype == np.float32


def test_a_network_that_fails_is_a_failure_of_the_pair(bare: tuple[Bundle, Path]) -> None:
    model = opened(bare)
    turned = photographs(1).transpose(0, 2, 1, 3)
    with pytest.raises(ModelFailed, match=r"the similarity network failed: .*image") as raised:
        model.embed(turned)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelFailed, match=r"under masks: .*image"):
        model.perturbed(turned[0], model.bank(RISE), COLOR)
    with pytest.raises(ModelFailed, match="under masks: "):
        model.perturbed(photographs(1)[0], model.bank(RISE), np.zeros((1, 5, 7, 3), np.float32))


def test_attributes_are_those_of_the_network(bundle: Path) -> None:
    made, images = bundles.read(str(bundle)), photographs(7)
    kernel = np.random.default_rng(7).normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32)
    padded = np.pad(normalised(images.astype(np.float64)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    maps = np.einsum("bcyxij,acij->bayx", windows, kernel.astype(np.float64))
    first_scores, first_maps = AttributeModel(made, bundle, "cpu", 1, 7).predict(images)
    assert first_maps.shape == (7, len(VOCABULARY), SIZE[0] // 2, SIZE[1] // 2)
    np.testing.assert_allclose(first_maps, maps, atol=1e-4)
    np.testing.assert_allclose(first_scores, 1 / (1 + np.exp(-maps.mean(axis=(2, 3)))), atol=1e-5)
    assert made.attributes is not None
    told = replace(made, attributes=replace(made.attributes, batch=4))
    for model in (AttributeModel(made, bundle, "cpu", 2, 1), AttributeModel(told, bundle, "cpu", 1, 16)):
        scores, found = model.predict(images)
        np.testing.assert_array_equal(scores, first_scores)
        np.testing.assert_array_equal(found, first_maps)
    with pytest.raises(ModelFailed, match=r"the attribute network failed: .*image"):
        model.predict(images.transpose(0, 2, 1, 3))


@pytest.mark.parametrize("where", ["scores", "maps"])
def test_an_attribute_network_that_gives_nan_has_failed(bundle: Path, where: str) -> None:
    class Broken:
        def run(self, names: list[str], feeds: dict[str, Any]) -> list[Float32]:
            outputs = {"scores": np.full((2, 3), 0.5, np.float32), "maps": np.ones((2, 3, 4, 4), np.float32)}
            outputs[where][1, 2] = np.nan
            return [outputs[name] for name in names]

    model = AttributeModel(bundles.read(str(bundle)), bundle, "cpu", 1, 16)
    model._session = Broken()
    with pytest.raises(ModelFailed, match="NaN or infinity"):
        model.predict(photographs(2))


def test_a_bundle_without_attributes_has_no_attribute_model(bare: tuple[Bundle, Path]) -> None:
    with pytest.raises(BundleError, match="no attribute network"):
        AttributeModel(*bare, "cpu", 1, 8)


@pytest.mark.parametrize("content", [b"", b"no network", bytes(range(256)) * 8])
def test_a_broken_network_is_a_broken_bundle(bare: tuple[Bundle, Path], tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match="cannot load the network"):
        session(content)
    (tmp_path / bare[0].similarity.file).write_bytes(content)
    with pytest.raises(BundleError, match="cannot load the network"):
        SimilarityModel(bare[0], tmp_path, "cpu", 1, 8)


def test_a_network_cut_short_or_absent_is_a_broken_bundle(bare: tuple[Bundle, Path], tmp_path: Path) -> None:
    whole = (bare[1] / bare[0].similarity.file).read_bytes()
    assert session(whole).get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(BundleError, match="cannot load the network"):
        session(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="cannot load the network"):
        session(tmp_path / "absent.onnx")


def test_the_cpu_is_the_cpu(bare: tuple[Bundle, Path]) -> None:
    assert resolve_device("cpu") == "cpu"
    assert opened(bare).provider == "CPUExecutionProvider"


@pytest.mark.skipif(not NO_CUDA, reason="this ONNX Runtime has the CUDA provider")
def test_cuda_where_there_is_none_says_what_to_do(bare: tuple[Bundle, Path]) -> None:
    assert resolve_device("auto") == "cpu"
    with pytest.raises(DeviceError, match=r"--device cuda: .*CPUExecutionProvider.*onnxruntime-gpu.*--device cpu"):
        resolve_device("cuda")
    with pytest.raises(DeviceError, match="--device cuda"):
        SimilarityModel(*bare, "cuda", 1, 8)
    with pytest.raises(DeviceError, match="--device cuda"):
        Models(Serving(str(bare[1]), device="cuda"))


@pytest.mark.skipif(NO_CUDA or resolve_device("auto") != "cuda", reason="needs an NVIDIA GPU and onnxruntime-gpu")
def test_cuda_computes_what_the_cpu_computes(bare: tuple[Bundle, Path]) -> None:
    on_cuda, on_cpu = SimilarityModel(*bare, "cuda", 1, 8), opened(bare)
    assert on_cuda.provider == "CUDAExecutionProvider"
    images = photographs(3)
    np.testing.assert_allclose(on_cuda.embed(images), on_cpu.embed(images), atol=1e-4)
    bank = on_cuda.bank(RISE)
    for image in images:
        found = on_cuda.perturbed(image, bank, COLOR)
        np.testing.assert_allclose(found, on_cpu.perturbed(image, on_cpu.bank(RISE), COLOR), atol=1e-4)


def test_models_share_the_banks_that_an_images_hash_chooses(bundle: Path) -> None:
    models = Models(Serving(str(bundle), batch=3))
    assert models.similarity.batch == 3
    assert models.attributes is not None
    method = RiseMethod(masks=5, cells=3, banks=3)
    for number in range(6):
        sha256 = f"{number:08x}" + "ab" * 28
        design = models.design(method, sha256)
        assert design.key == rise(SIZE, masks=5, cells=3, bank=number % 3).key
        assert models.design(method, sha256) is design
        bank = models.bank_of(design)
        assert models.bank_of(design) is bank
        assert bank.hold
    window = SlidingWindowMethod(window=5, stride=4)
    assert models.design(window, "00" * 32) is models.design(window, "ff" * 32)


def test_methods_of_equal_masks_share_a_bank(bundle: Path) -> None:
    models = Models(Serving(str(bundle)))
    window, sbsm = (kind(window=5, stride=4) for kind in (SlidingWindowMethod, SbsmMethod))
    banks = [models.bank_of(models.design(method, "00" * 32)) for method in (window, sbsm)]
    assert banks[0] is banks[1]


def test_models_hold_no_banks_where_they_do_not_fit(bundle: Path) -> None:
    models = Models(Serving(str(bundle), hold_banks=False))
    assert not models.bank_of(models.design(RiseMethod(masks=5, cells=3, banks=1), "00" * 32)).hold


def test_masks_of_one_image_are_not_kept(bundle: Path) -> None:
    models = Models(Serving(str(bundle)))
    design = models.design(RiseMethod(masks=5, cells=3), "00" * 32)
    assert design.key != models.design(RiseMethod(masks=5, cells=3), "01" * 32).key
    assert models.design(RiseMethod(masks=5, cells=3), "00" * 32) is not design
    assert not models.bank_of(design).hold
    assert models.bank_of(design) is not models.bank_of(design)


def test_blocks_are_the_whole_and_stop_when_nobody_asks(bare: tuple[Bundle, Path]) -> None:
    model = opened(bare)
    bank = model.bank(RISE)
    whole = model.perturbed(photographs(1)[0], bank, COLOR)
    blocks = model.blocks(photographs(1)[0], bank, COLOR)
    first = next(blocks)
    np.testing.assert_array_equal(first, whole[: len(first)])
    np.testing.assert_array_equal(np.concatenate([first, *blocks]), whole)
