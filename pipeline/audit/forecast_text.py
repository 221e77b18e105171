"""A forecast as text: one line a quantity, what is estimated with "about"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.audit.forecast import RunForecast, in_words
from pipeline.runs.runners import profile_of
from pipeline.text.tables import columns, cut, printable
from transforms.core.messages import Echo

STRATA_SHOWN = 12
"""Strata that the text names, the largest; the table strata has them all."""
_LONGEST = 40
"""Columns of the terminal that a stratum's name takes."""
_LABEL = 9


def print_forecast(forecast: RunForecast, echo: Echo = print, graph: Sequence[str] = ()) -> None:
    """Says what the run will do, and the steps of its ``graph`` (:func:`pipeline.audit.forecast.graph_of`)."""
    for line in lines(forecast, graph):
        echo(line)


def lines(forecast: RunForecast, graph: Sequence[str] = ()) -> Iterator[str]:
    """What :func:`print_forecast` says, line by line."""
    unreadable = f", {forecast.unreadable:,} of them without a query that can be read" if forecast.unreadable else ""
    yield _line("rows", f"{forecast.rows:,}{unreadable}")
    by = f", by {printable(forecast.column)}" if forecast.column else ""
    yield _line("queries", _of(forecast.sampled_queries, forecast.queries) + by)
    yield _line("pairs", _of(forecast.sampled_pairs, forecast.pairs))
    if forecast.column is not None:
        yield from _strata(forecast)
    yield _line("passes", _passes(forecast))
    yield _line("speed", _speed(forecast))
    yield _line("time", f"about {_duration(forecast.seconds)} {_workers(forecast)}")
    yield _line(
        "read", f"about {in_words(forecast.read)} of images" if forecast.read else "not known: no image was read"
    )
    yield _line("written", f"about {in_words(forecast.written)} of tables")
    yield _line("memory", _memory(forecast))
    if graph:
        yield "steps"
        yield from (f"  {step}" for step in graph)


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}  {text}"


def _of(sampled: int, all_of_them: int) -> str:
    if sampled == all_of_them:
        return f"all {all_of_them:,} are explained"
    return f"{sampled:,} of {all_of_them:,} are explained ({sampled / all_of_them:.2%})"


def _strata(forecast: RunForecast) -> Iterator[str]:
    largest = sorted(forecast.strata, key=lambda stratum: (-stratum.queries, stratum.name))
    head = [("stratum", "queries", "sampled", "rate")]
    rows = [
        (
            cut(printable(stratum.name), _LONGEST),
            f"{stratum.queries:,}",
            f"{stratum.sampled_queries:,}",
            f"{stratum.rate:.2%}",
        )
        for stratum in largest[:STRATA_SHOWN]
    ]
    widths = [max(columns(row[column]) for row in head + rows) for column in range(4)]
    for name, *numbers in head + rows:
        cells = [name + " " * (widths[0] - columns(name))] + [
            number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)
        ]
        yield " " * (_LABEL + 2) + "  ".join(cells)
    if (more := len(largest) - STRATA_SHOWN) > 0:
        yield " " * (_LABEL + 2) + f"and {more:,} more"


def _passes(forecast: RunForecast) -> str:
    gradient_passes = f", {forecast.gradient_passes:,} of them of the gradient" if forecast.gradient_passes else ""
    early = "; maps that converge early take fewer" if forecast.early else ""
    return f"at most {forecast.passes:,} forward passes{gradient_passes}{early}"


def _speed(forecast: RunForecast) -> str:
    probe = forecast.probe
    gradient_passes = (
        f", {probe.gradient_passes_per_second:,.0f} of the gradient" if probe.gradient_passes_per_second else ""
    )
    if probe.images_loaded:
        loaded = f"{probe.seconds_per_image * 1000:.1f} ms to load an image of {in_words(probe.bytes_per_image)}"
    else:
        loaded = f"none of {probe.images_tried} images could be loaded, so a grey one was masked"
    here = "" if profile_of(forecast.runner).here else f": this machine's, not that of {forecast.runner}'s workers"
    return f"{probe.passes_per_second:,.0f} passes a second and worker{gradient_passes}; {loaded}{here}"


def _workers(forecast: RunForecast) -> str:
    if not profile_of(forecast.runner).here:
        return "of one worker, shared among as many as there are"
    return f"with {forecast.workers} worker{'s' * (forecast.workers != 1)}"


def _memory(forecast: RunForecast) -> str:
    worker = f"at most {in_words(forecast.worker_memory)} a worker beyond its libraries"
    if forecast.launcher_memory is None:
        return worker
    return f"{worker}; about {in_words(forecast.launcher_memory)} for all pairs in the launcher"


def _duration(seconds: float) -> str:
    """``seconds`` in words: "a minute" for less than that, "12 min", "5.2 h" or "3.4 days"."""
    if seconds < 60:
        return "a minute"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
