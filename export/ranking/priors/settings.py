"""How priors are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transforms.core.attributes import concepts
from transforms.core.errors import UsageError

Among = Literal["all", "having"]


@dataclass(frozen=True)
class PriorSettings:
    """How priors are found; UsageError for what cannot be.

    Attributes:
      layer: the name of a value of the similarity graph; None for the last feature map.
      counter_sets: concept vectors of an attribute, each against another random counter-set.
      random_concepts: vectors of random products against random others. They are the other side of every test, so that
        a few more of them cost little and spare all attributes the chance of a few.
      set_size: examples on each side of a concept vector, at most.
      min_count: of each side, at least; an attribute with fewer has no prior of its own.
      alpha: level of the tests of all attributes together.
      step: share of the activations' length by which they are moved.
      among: which pairs an attribute's score counts, "all" as in the paper, or those whose query has the
        attribute, "having": what would become of other matches, had they the attribute, says little of this one.
      queries: of the pairs, at most. top_k: references of each, where the pairs are the model's recommendations.
      seed: of every draw.
    """

    layer: str | None = None
    counter_sets: int = 10
    random_concepts: int = 30
    set_size: int = 100
    min_count: int = 10
    alpha: float = 0.05
    step: float = concepts.STEP
    among: Among = "having"
    queries: int = 200
    top_k: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"counter_sets": 2, "random_concepts": 2, "min_count": 3, "queries": 1, "top_k": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {value}, not {getattr(self, name)}")
        if self.set_size < self.min_count:
            raise UsageError(f"--set-size {self.set_size} is less than --min-count {self.min_count}")
        for name in ("alpha", "step"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"--{name} is a share between 0 and 1, not {getattr(self, name)}")
        if self.among not in ("all", "having"):
            raise UsageError(f"--among is all or having, not {self.among}")
