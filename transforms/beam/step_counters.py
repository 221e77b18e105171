"""What each stage counts for the runner's dashboard, under fixed names.

Names of inference follow Beam's RunInference, so that an existing dashboard reads them. They are for watching: a runner
may count a retried bundle twice. The numbers of the tables come through the pipeline itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.metrics import Metrics


class StepCounters:
    """Counters of the stage ``name``, in the namespace ``whymatch.<name>``."""

    def __init__(self, name: str) -> None:
        namespace = f"whymatch.{name}"
        self._items = Metrics.counter(namespace, "num_items")
        self._failures = Metrics.counter(namespace, "num_failures")
        self._inferences = Metrics.counter(namespace, "num_inferences")
        self._latency = Metrics.distribution(namespace, "inference_batch_latency_micro_secs")
        self._load = Metrics.distribution(namespace, "load_model_latency_milli_secs")

    def items(self, count: int = 1) -> None:
        """Counts items that came out."""
        self._items.inc(count)

    def failures(self, count: int = 1) -> None:
        """Counts items that failed."""
        self._failures.inc(count)

    @contextmanager
    def inference(self, passes: int = 0) -> Iterator[None]:
        """Times forward passes, and counts them where their number is known before."""
        started = time.perf_counter()
        yield
        self._latency.update(int(1e6 * (time.perf_counter() - started)))
        self._inferences.inc(passes)

    def passes(self, count: int) -> None:
        """Counts forward passes."""
        self._inferences.inc(count)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Times the loading of a bundle's networks."""
        started = time.perf_counter()
        yield
        self._load.update(int(1e3 * (time.perf_counter() - started)))
