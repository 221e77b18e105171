"""The marker ``engine`` is not a matter of memory: a test that starts Beam without it fails.

A test starts Beam where a pipeline runs while it is called, or where one ran in a fixture that it takes, whichever test
had that fixture made. What starts no Beam and is not slow is marked ``unit``.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import apache_beam as beam
import pytest

_started = 0
"""Pipelines that this process has run."""

_fixtures: set[tuple[str, str]] = set()
"""Fixtures that ran a pipeline when they were made: the node below which each can be taken, and its name."""


@pytest.fixture(scope="session", autouse=True)
def _pipelines_are_counted() -> Generator[None]:
    run = beam.Pipeline.run

    def counted(self: beam.Pipeline, *arguments: Any, **options: Any) -> Any:
        global _started
        _started += 1
        return run(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam.Pipeline, "run", counted)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("engine", "slow")):
            item.add_marker(pytest.mark.unit)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    before = _started
    made = yield
    if _started > before:
        _fixtures.add((fixturedef.baseid, fixturedef.argname))
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Generator[None, None, None]:
    before = _started
    yield
    taken = [name for base, name in _fixtures if name in item.fixturenames and item.nodeid.startswith(base)]
    if (_started > before or taken) and not item.get_closest_marker("engine"):
        by = f"its fixture {taken[0]}" if taken else "it"
        pytest.fail(f"{by} starts Beam: mark the test with @pytest.mark.engine", pytrace=False)
