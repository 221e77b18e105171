"""The methods that an audit can be asked for, with their parameters and defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from transforms.core.saliency.contract import Design
from transforms.core.saliency.rise import rise
from transforms.core.saliency.sliding_window import sliding_window
from transforms.core.types import content_id


class Method(Protocol):
    """A configured perturbation method. ``banks`` is how many independent sets of masks it draws."""

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def banks(self) -> int: ...

    def design(self, size: tuple[int, int], bank: int) -> Design:
        """The design for frames of ``size`` (H, W), from bank number ``bank``."""

    def parameters(self) -> dict[str, Any]:
        """What tells this configuration from another of the same method."""


@dataclass(frozen=True)
class RiseMethod:
    """RISE; the parameters are those of :func:`transforms.core.saliency.rise.rise`."""

    name: ClassVar[str] = "rise"
    version: ClassVar[int] = 1
    masks: int = 2000
    cells: int = 8
    p: float = 0.5
    seed: int = 0
    banks: int = 1

    def design(self, size: tuple[int, int], bank: int) -> Design:
        return rise(size, masks=self.masks, cells=self.cells, p=self.p, seed=self.seed, bank=bank)

    def parameters(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SlidingWindowMethod:
    """Sliding window; the parameters are those of :func:`transforms.core.saliency.sliding_window.sliding_window`."""

    name: ClassVar[str] = "sliding_window"
    version: ClassVar[int] = 1
    banks: ClassVar[int] = 1
    window: int = 32
    stride: int = 4

    def design(self, size: tuple[int, int], bank: int) -> Design:
        return sliding_window(size, window=self.window, stride=self.stride)

    def parameters(self) -> dict[str, Any]:
        return asdict(self)


def explainer_id(method: Method, fill: str) -> str:
    """Id of what makes two maps comparable: the method, its estimator's version, its parameters and the fill."""
    return content_id(method.name, str(method.version), repr(sorted(method.parameters().items())), fill, letter="e")
