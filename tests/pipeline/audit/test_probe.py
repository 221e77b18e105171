"""The probe counts batches by a clock that the test holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from pipeline.audit.probe import MOST_LOADED, MOST_TRIED, probe
from transforms.core.errors import ModelFailed, UsageError
from transforms.core.imaging.images import ImageLimits
from transforms.core.saliency.contract import Method
from transforms.core.saliency.decomposition import DecompositionMethod
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.gradients import GradientMethod
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod
from transforms.serving.gradient_model import GradientAt
from transforms.serving.load_image import ImageLoader
from transforms.serving.mask_bank import MaskBank
from transforms.serving.models import Models, Serving
from transforms.serving.similarity_model import SimilarityModel
from transforms.storage import Access

BATCH = 8


class Clock:
    """A clock that stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def models(bundle: Path) -> Models:
    return Models(Serving(str(bundle), batch=BATCH))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at in range(12):
        pixels = np.random.default_rng(at).integers(0, 256, (15, 20 + at, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{at}.png")
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Every masked batch takes half a second, every batch of gradients 2 s; nothing else takes time."""
    clock, blocks, call = Clock(), SimilarityModel.blocks, GradientAt.__call__

    def slow_blocks(self: SimilarityModel, *given: Any) -> Iterator[Any]:
        for block in blocks(self, *given):
            clock.now += 0.5
            yield block

    def slow_call(self: GradientAt, *given: Any) -> Any:
        clock.now += 2
        return call(self, *given)

    monkeypatch.setattr(SimilarityModel, "blocks", slow_blocks)
    monkeypatch.setattr(GradientAt, "__call__", slow_call)
    return clock


def loader(models: Models, folder: Path, clock: Clock | None = None, seconds: float = 0.0) -> ImageLoader:
    """The run's loader; each image takes ``seconds``."""

    class Slow(ImageLoader):
        def __call__(self, address: str) -> Any:
            if clock is not None:
                clock.now += seconds
            return super().__call__(address)

    return Slow(Access((str(folder),)), ImageLimits(), models.bundle.resize)


def of(*methods: Method) -> list[Explainer]:
    return [Explainer(method, "auto") for method in methods]


def addresses(folder: Path, *names: str) -> list[str]:
    return [str(folder / name) for name in names]


def test_passes_by_the_clock(models: Models, folder: Path, clock: Clock) -> None:
    explainers = of(RiseMethod(masks=16, cells=2))
    found = probe(models, explainers, loader(models, folder), addresses(folder, "0.png"), seconds=8, clock=clock)
    # 8 masks in half a second
    assert found.passes_per_second == 16
    assert found.gradient_passes_per_second is None
    # a first batch, which is not timed, then batches until three quarters of the time are over
    assert clock.now == 0.5 + 6


def test_the_last_batch_of_a_design_has_fewer_passes(models: Models, folder: Path, clock: Clock) -> None:
    explainers = of(RiseMethod(masks=12, cells=2))
    found = probe(models, explainers, loader(models, folder), [], seconds=4, clock=clock)
    # 8 to warm up, then 4, 8, 4, 8, 4, 8
    assert found.passes_per_second == 36 / 3


def test_two_batches_are_timed_at_least(models: Models, folder: Path, clock: Clock) -> None:
    found = probe(models, of(SlidingWindowMethod(window=8)), loader(models, folder), [], seconds=0.1, clock=clock)
    # 12 x 16: two rows of three windows, which are one batch
    assert clock.now == 1.5
    assert found.passes_per_second == 6 / 0.5


def test_images_that_can_be_loaded(models: Models, folder: Path, clock: Clock) -> None:
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:60])
    names = ["absent.png", "torn.png", "3.png", "9.png", "3.png"]
    load = loader(models, folder, clock, 0.25)
    found = probe(models, of(RiseMethod(masks=8, cells=2)), load, addresses(folder, *names), seconds=8, clock=clock)
    sizes = [(folder / name).stat().st_size for name in ("3.png", "9.png")]
    assert sizes[0] < sizes[1]
    assert (found.images_tried, found.images_loaded) == (4, 2)  # an address twice is one
    assert found.bytes_per_image == round(sum(sizes) / 2)
    assert found.seconds_per_image == 0.25  # of those that were loaded


def test_loading_ends_with_its_share_of_the_time_or_with_enough(models: Models, folder: Path, clock: Clock) -> None:
    explainers, names = of(RiseMethod(masks=8, cells=2)), [f"{at}.png" for at in range(12)]
    quick = probe(models, explainers, loader(models, folder), addresses(folder, *names), seconds=8, clock=clock)
    assert (quick.images_tried, quick.images_loaded) == (MOST_LOADED, MOST_LOADED)
    slow = loader(models, folder, clock, 1.5)
    found = probe(models, explainers, slow, addresses(folder, *names), seconds=8, clock=clock)
    assert found.images_loaded == 2  # 2 s are a quarter
    absent = addresses(folder, *(f"absent-{at}.png" for at in range(100)))
    found = probe(models, explainers, slow, iter(absent), seconds=1000, clock=clock)
    assert (found.images_tried, found.images_loaded) == (MOST_TRIED, 0)


def test_a_grey_image_where_none_can_be_loaded(
    models: Models, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, blocks = [], SimilarityModel.blocks

    def watched(self: SimilarityModel, image: Any, bank: MaskBank, fill: Any) -> Iterator[Any]:
        seen.append(image)
        return blocks(self, image, bank, fill)

    monkeypatch.setattr(SimilarityModel, "blocks", watched)
    explainers = of(RiseMethod(masks=8, cells=2))
    found = probe(models, explainers, loader(models, folder), ["/nothing/here"], seconds=1, clock=clock)
    assert (found.images_tried, found.images_loaded, found.bytes_per_image, found.seconds_per_image) == (1, 0, 0, 0)
    assert found.passes_per_second == 16
    assert seen[0].shape == (12, 16, 3)
    assert np.ptp(seen[0]) == 0
    probe(models, explainers, loader(models, folder), addresses(folder, "7.png"), seconds=1, clock=clock)
    assert np.ptp(seen[-1]) > 0  # the image's own pixels


def test_methods_without_masks_are_timed_with_some(models: Models, folder: Path, clock: Clock) -> None:
    found = probe(models, of(DecompositionMethod()), loader(models, folder), [], seconds=4, clock=clock)
    assert found.passes_per_second == 16


def test_slopes_by_the_clock(complete: Path, folder: Path, clock: Clock) -> None:
    models = Models(Serving(str(complete), batch=BATCH, graphs=("gradient",)))
    explainers = of(RiseMethod(masks=16, cells=2), GradientMethod())
    found = probe(models, explainers, loader(models, folder), addresses(folder, "1.png"), seconds=8, clock=clock)
    assert found.passes_per_second == 16
    assert found.gradient_passes_per_second == models.gradient.batch / 2
    # 1 + 4 batches of masks, 1 + 2 of slopes
    assert clock.now == 5 * 0.5 + 3 * 2


def test_a_network_that_fails_is_refused(
    models: Models, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Iterator[Any]:
        raise ModelFailed("the similarity network failed under masks: no")
        yield

    monkeypatch.setattr(SimilarityModel, "blocks", fail)
    with pytest.raises(UsageError, match=r"no.*whymatch check"):
        probe(models, of(RiseMethod(masks=16, cells=2)), loader(models, folder), [], clock=clock)


def test_with_a_real_clock(models: Models, folder: Path) -> None:
    explainers = of(RiseMethod(masks=16, cells=2))
    found = probe(models, explainers, loader(models, folder), addresses(folder, "1.png"), seconds=0.01)
    assert found.passes_per_second > 0
    assert found.seconds_per_image > 0
