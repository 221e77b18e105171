"""A pipeline handed to its runner, and what its failure becomes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.runs.runners import RunnerProfile
from transforms.core.errors import RunError, WhymatchError
from transforms.core.redaction import redact

if TYPE_CHECKING:
    from transforms.beam.typed import PCollection, Pipeline


class Running(Protocol):
    """The options that say where a pipeline runs."""

    @property
    def profile(self) -> RunnerProfile: ...

    @property
    def workers(self) -> int: ...

    @property
    def beam_args(self) -> tuple[str, ...]: ...


def quiet_beam(profile: RunnerProfile) -> None:
    """Keeps Beam's log out of a run of this machine: it is no concern of the user's, its errors are raised as well."""
    if profile.here:
        logging.disable(logging.ERROR)


def submit(options: Running, build: Callable[[Pipeline], PCollection[str]]) -> None:
    """Runs the pipeline that ``build`` makes and waits for it; RunError when it breaks."""
    import apache_beam as beam

    profile = options.profile
    pipeline = beam.Pipeline(runner=profile.runner(options.workers), options=beam_options(options))
    build(pipeline)
    try:
        state = pipeline.run().wait_until_finish()
    except WhymatchError:
        raise
    except Exception as error:
        # Beam wraps a worker's error in its own text, which may hold addresses
        raise RunError(f"the pipeline broke: {redact(profile.cause(error))}") from None
    if state != "DONE":
        raise RunError(f"the pipeline ended as {state}")


def beam_options(options: Running) -> Any:
    """Beam's own options."""
    from apache_beam.options.pipeline_options import PipelineOptions

    arguments = [*options.beam_args, *options.profile.arguments(options.workers)]
    return PipelineOptions(arguments, save_main_session=False)
