"""Images to embeddings: bad ones fail alone, whichever step they fail in, and each image is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models.bundles import small_bundle
from transforms.core.errors import ModelFailed, NonFiniteEmbedding, NotFound, PairError
from transforms.core.records import EmbeddedImage, Frame, LoadFailure
from transforms.serving.embed import embed, embed_frames, isolate
from transforms.serving.load_image import LoadedImage
from transforms.serving.models import Models, Serving


@given(st.lists(st.booleans(), max_size=40))
def test_bad_items_fail_alone(bad: list[bool]) -> None:
    calls: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        if any(bad[item] for item in items):
            raise ModelFailed(f"{len(items)} at once")
        return [10 * item for item in items]

    found = isolate(run, range(len(bad)))
    assert [isinstance(one, PairError) for one in found] == bad
    assert all(str(one) == "1 at once" if bad[at] else one == 10 * at for at, one in enumerate(found))
    assert len(calls) <= 1 + sum(bad) * 2 * max(1, len(bad)).bit_length()


def test_nothing_runs_for_nothing() -> None:
    def run(items: Sequence[int]) -> list[int]:
        raise AssertionError(items)

    assert isolate(run, []) == []


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("bundle")
    small_bundle(folder)
    return Models(Serving(str(folder), batch=4))


class Images:
    """Photographs of one colour each, by the number that is their address; those above 90 are not there."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.read: list[str] = []

    def __call__(self, address: str) -> LoadedImage:
        self.read.append(address)
        if int(address) > 90:
            raise NotFound(f"nothing lies at {address}")
        frame = Frame((60, 45), self.size, (0, 0, 60, 45))
        return LoadedImage(np.full((*self.size, 3), int(address), np.uint8), frame, f"sha of {address}")


def failing_at(monkeypatch: pytest.MonkeyPatch, network: Any, method: str, *colours: int) -> list[int]:
    """Lets ``network`` fail on frames of these ``colours``; returns the sizes of the batches it is given."""
    batches: list[int] = []
    real = getattr(network, method)

    def run(frames: Any) -> Any:
        batches.append(len(frames))
        if {int(frame[0, 0, 0]) for frame in frames} & set(colours):
            raise ModelFailed("it failed")
        return real(frames)

    monkeypatch.setattr(network, method, run)
    return batches


def test_each_distinct_image_is_embedded_once_and_in_order(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = failing_at(monkeypatch, models.similarity, "embed")
    load = Images(models.similarity.size)
    addresses = ["3", "1", "99", "3", "2", "5", "1", "8"]
    outcomes = dict(embed(addresses, load, models))
    assert list(outcomes) == load.read == ["3", "1", "99", "2", "5", "8"]
    assert batches == [3, 2]  # four addresses a batch, of which one cannot be loaded
    assert outcomes["99"] == LoadFailure("load", "not_found", "nothing lies at 99", False)
    for address in ("3", "8"):
        one = outcomes[address]
        assert isinstance(one, EmbeddedImage)
        assert (one.sha256, one.height, one.width) == (f"sha of {address}", 60, 45)
        pixels = load(address).pixels[None]
        np.testing.assert_array_equal(one.embedding, models.similarity.embed(pixels)[0])
        assert models.attributes is not None
        np.testing.assert_array_equal(one.scores, models.attributes.predict(pixels)[0][0])


@pytest.mark.parametrize(("network", "method"), [("similarity", "embed"), ("attributes", "predict")])
def test_an_image_that_a_network_fails_on_takes_no_other_with_it(
    models: Models, monkeypatch: pytest.MonkeyPatch, network: str, method: str
) -> None:
    failing_at(monkeypatch, getattr(models, network), method, 2, 7)
    outcomes = dict(embed(map(str, range(9)), Images(models.similarity.size), models))
    failed = {address for address, one in outcomes.items() if isinstance(one, LoadFailure)}
    assert failed == {"2", "7"}
    assert outcomes["2"] == LoadFailure("model", "model_failed", "it failed", False)


def test_without_scores_the_attribute_network_is_not_asked(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = failing_at(monkeypatch, models.attributes, "predict")
    (one,) = dict(embed(["1"], Images(models.similarity.size), models, scores=False)).values()
    assert isinstance(one, EmbeddedImage)
    assert one.scores is None
    assert not batches


def test_an_embedding_that_is_not_finite_is_an_error(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    real = models.similarity.embed

    def run(frames: Any) -> Any:
        rows = real(frames)
        rows[1, 0] = np.nan
        return rows

    monkeypatch.setattr(models.similarity, "embed", run)
    found = embed_frames(list(np.zeros((3, *models.similarity.size, 3), np.uint8)), models.similarity)
    assert [isinstance(one, NonFiniteEmbedding) for one in found] == [False, True, False]
