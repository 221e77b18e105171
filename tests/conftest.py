"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline import demo
from tests.support.models.bundles import small_bundle
from tests.support.models.complete import complete_bundle

pytest_plugins = ["tests.support.emulators", "tests.support.engine"]

# The same examples in every run of the same tests, and no clock: what passes here passes anywhere. New examples, and
# many of them: --hypothesis-profile=explore
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small bundle with attributes, for frames of 12 x 16 pixels."""
    folder = tmp_path_factory.mktemp("bundle") / "small"
    small_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle with all four graphs, exported from torch."""
    pytest.importorskip("torch", reason="needs the extra export")
    return complete_bundle(tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small drawn catalogue with its manifest ``pairs.csv``; not to be changed."""
    folder = tmp_path_factory.mktemp("drawn")
    demo.draw(folder, products=60, queries=8, references=3)
    return folder


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Tests run side by side, and torch's threads spin while they wait: two processes of two threads take minutes."""
    import torch  # here, so that tests that need no torch do not load it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
