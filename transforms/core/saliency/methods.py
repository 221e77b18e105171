"""The methods that an audit can be asked for: their parameters, their defaults, and what each asks of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np

from transforms.core.records import Float32, Float64
from transforms.core.saliency.contract import Gradient, ImageView, Maps, Method, Needs, References, Saliency
from transforms.core.saliency.decomposition import decompose
from transforms.core.saliency.gradients import STEPS, gradient_times_input, integrated_gradients
from transforms.core.saliency.grids import Sampling
from transforms.core.saliency.lime import check_parameters, lime
from transforms.core.saliency.mask import MaskSettings, optimise, optimise_both
from transforms.core.saliency.perturbation import Perturbation
from transforms.core.saliency.rise import Estimator, Rise, rise
from transforms.core.saliency.sbsm import Sbsm, sbsm
from transforms.core.saliency.sliding_window import SlidingWindow, sliding_window
from transforms.core.saliency.split_half import FEWEST, SplitHalfReliability
from transforms.core.saliency.stopping_rule import StoppingRule
from transforms.core.similarity import SimilarityFunction

PAIRS = 64
"""Pairs whose two masks are optimised together; it bounds memory and changes no result."""


NO_FILL = "none"
"""The fill of a method that hides nothing."""


class _Parameters:
    """The fields of a method's dataclass are its parameters."""

    def parameters(self) -> dict[str, Any]:
        """What tells this configuration from another of the same method."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class RiseMethod(_Parameters):
    """RISE; the parameters are those of :func:`transforms.core.saliency.rise.rise`.

    ``banks``: how many independent sets of masks, chosen by the image's content; 0 draws every image its own. With one
    set, all maps of a catalogue share that set's error, which a rate over the catalogue then cannot average away.
    ``converge``: stop when two halves of the masks agree to this correlation for all references; ``masks`` at most.
    """

    name: ClassVar[str] = "rise"
    version: ClassVar[int] = 2
    needs: ClassVar[Needs] = "masks"
    fill: ClassVar[str] = "auto"
    masks: int = 512
    cells: int = 8
    p: float = 0.5
    sampling: Sampling = "hadamard"
    estimator: Estimator = "regression"
    banks: int = 0
    converge: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.banks < 0 or (self.converge is not None and not 0 < self.converge < 1):
            raise ValueError(f"RISE needs banks >= 0 and 0 < converge < 1, got {self.banks} and {self.converge}")

    def design(self, size: tuple[int, int], bank: int) -> Rise:
        """The design for frames of ``size`` (H, W) from bank number ``bank``."""
        return rise(
            size,
            masks=self.masks,
            cells=self.cells,
            p=self.p,
            sampling=self.sampling,
            estimator=self.estimator,
            seed=self.seed,
            bank=bank,
        )

    def prepare(self, subject: ImageView, references: References | None = None) -> Saliency:
        """Runs the masked passes, no more of them than ``converge`` asks for."""
        design = self.design_of(subject)
        stopping_rule = None
        if self.converge is not None and references is not None:
            stopping_rule = StoppingRule(design, subject.function, references, self.converge)
        perturbed = subject.perturbed(design, stopping_rule)
        split_half = SplitHalfReliability(design, len(perturbed)) if len(perturbed) >= FEWEST else None
        return Perturbation(design, subject.base, perturbed, subject.function, split_half)

    def design_of(self, subject: ImageView) -> Rise:
        """The design for the image ``subject``."""
        design = subject.design(self)
        assert isinstance(design, Rise)
        return design


@dataclass(frozen=True)
class SlidingWindowMethod(_Parameters):
    """Sliding window; the parameters are those of :func:`transforms.core.saliency.sliding_window.sliding_window`."""

    name: ClassVar[str] = "sliding_window"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = "masks"
    fill: ClassVar[str] = "auto"
    banks: ClassVar[int] = 1
    window: int = 32
    stride: int = 4

    def design(self, size: tuple[int, int], bank: int) -> SlidingWindow:
        """The design for frames of ``size`` (H, W); there is one bank."""
        return sliding_window(size, window=self.window, stride=self.stride)

    def prepare(self, subject: ImageView, references: References | None = None) -> Saliency:
        """Runs the masked passes."""
        design = subject.design(self)
        return Perturbation(design, subject.base, subject.perturbed(design), subject.function)


@dataclass(frozen=True)
class SbsmMethod(SlidingWindowMethod):
    """SBSM: the sliding window's masks, and an estimator of its own (:func:`transforms.core.saliency.sbsm.sbsm`)."""

    name: ClassVar[str] = "sbsm"
    version: ClassVar[int] = 1

    def design(self, size: tuple[int, int], bank: int) -> Sbsm:
        """The design for frames of ``size`` (H, W); there is one bank."""
        return sbsm(size, window=self.window, stride=self.stride)


@dataclass(frozen=True)
class LimeMethod(_Parameters):
    """LIME; the parameters are those of :func:`transforms.core.saliency.lime.lime`."""

    name: ClassVar[str] = "lime"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = "superpixels"
    fill: ClassVar[str] = "auto"
    samples: int = 1000
    kernel_width: float = 0.25
    ridge: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_parameters(self.samples, self.kernel_width, self.ridge)

    def prepare(self, subject: ImageView, references: References | None = None) -> Saliency:
        """Segments the image and runs the masked passes."""
        design = lime(
            subject.superpixels(),
            samples=self.samples,
            kernel_width=self.kernel_width,
            ridge=self.ridge,
            seed=subject.seed(self.seed),
        )
        return Perturbation(design, subject.base, subject.perturbed(design), subject.function)


@dataclass(frozen=True)
class MaskMethod(MaskSettings, _Parameters):
    """Mask; the parameters are those of :class:`transforms.core.saliency.mask.MaskSettings`."""

    name: ClassVar[str] = "mask"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = "gradient"
    fill: ClassVar[str] = "blur"

    def prepare(self, subject: ImageView, references: References | None = None) -> Saliency:
        """Runs nothing yet: every reference has passes of its own."""
        return _Optimised(subject.gradient(), replace(self, seed=subject.seed(self.seed)))


@dataclass(frozen=True)
class GradientMethod(_Parameters):
    """Gradient times (input minus fill)."""

    name: ClassVar[str] = "gradient_x_input"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = "gradient"
    fill: ClassVar[str] = "auto"

    def prepare(self, subject: ImageView, references: References | None = None) -> Saliency:
        """Runs nothing yet: every reference has a pass of its own."""
        return _Sloped(subject.gradient(), None)


@dataclass(frozen=True)
class IntegratedGradientsMethod(_Parameters):
    """Integrated gradients from the fill, in ``steps`` steps."""

    name: ClassVar[str] = "integrated_gradients"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = "gradient"
    fill: ClassVar[str] = "auto"
    steps: int = STEPS

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"integrated gradients need at least one step, got {self.steps}")

    def prepare(self, subject: ImageView, references: References | None = None) -> Saliency:
        """Runs nothing yet: every reference has passes of its own."""
        return _Sloped(subject.gradient(), self.steps)


@dataclass(frozen=True)
class DecompositionMethod(_Parameters):
    """The similarity's closed form over positions, for networks that pool and project linearly. It hides nothing."""

    name: ClassVar[str] = "decomposition"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = "projection"
    fill: ClassVar[str] = NO_FILL

    def prepare(self, subject: ImageView, references: References | None = None) -> Saliency:
        """Runs the one pass."""
        local, bias = subject.local()
        return _Decomposed(local, bias, subject.function, subject.size)


@dataclass(frozen=True)
class _Optimised:
    gradient: Gradient
    settings: MaskSettings

    def maps(self, references: References) -> Maps:
        if references.gradients is None:
            return Maps(optimise(self.gradient, references.embeddings, self.settings), self.settings.steps)
        count = len(references.embeddings)
        done = []
        for start in range(0, count, PAIRS):
            stop = min(start + PAIRS, count)
            other = references.gradients(start, stop)
            done.append(optimise_both(self.gradient, other, references.embeddings[start:stop], self.settings)[0])
        return Maps(np.concatenate(done), 2 * self.settings.steps)


@dataclass(frozen=True)
class _Sloped:
    gradient: Gradient
    steps: int | None

    def maps(self, references: References) -> Maps:
        versions = references.vectors()
        count = versions.shape[1]
        total = self._maps(np.ascontiguousarray(versions[:, 0]))
        for version in range(1, count):
            total += self._maps(np.ascontiguousarray(versions[:, version]))
        return Maps(total / count, (self.steps or 1) * count + references.passes)

    def _maps(self, vectors: Float32) -> Float64:
        if self.steps is None:
            return gradient_times_input(self.gradient, vectors)
        return integrated_gradients(self.gradient, vectors, steps=self.steps)


@dataclass(frozen=True)
class _Decomposed:
    local: Float32
    bias: Float32
    function: SimilarityFunction
    size: tuple[int, int]

    def maps(self, references: References) -> Maps:
        versions = references.vectors()
        if versions.shape[1] != 1:
            raise ValueError("only a similarity that is linear in the reference has a closed form over positions")
        passes = 1 + references.passes
        found = decompose(self.local, self.bias, versions[:, 0], self.function, self.size)
        if references.perturbed is None or self.function != "cosine":
            return Maps(found.maps, passes, found.bias)
        # the mean of unit vectors has no unit length, but decompose compares with unit vectors
        length = np.sqrt(np.square(versions[:, 0].astype(np.float64)).sum(axis=1))
        return Maps(found.maps * length[:, None, None], passes, found.bias * length)


METHODS: dict[str, type[Any]] = {
    method.name: method
    for method in (
        RiseMethod,
        SlidingWindowMethod,
        SbsmMethod,
        LimeMethod,
        MaskMethod,
        GradientMethod,
        IntegratedGradientsMethod,
        DecompositionMethod,
    )
}
"""The methods by name."""


def make_method(name: str, values: Mapping[str, str], seed: int = 0) -> Method:
    """The method ``name`` with ``values`` of its parameters, as text; ``seed`` is the run's.

    Raises ValueError for an unknown method or parameter, or a value that it cannot have.
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    kind = METHODS[name]
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    settable = [parameter for parameter in known if parameter != "seed"]
    if unknown := sorted(values.keys() - set(settable)):
        having = f"it has {', '.join(settable)}" if settable else "it has none"
        raise ValueError(f"{name} has no parameter {unknown[0]!r}; {having}")
    given = {key: _value(f"{name}.{key}", text, hints[key]) for key, text in values.items()}
    if "seed" in known:
        given["seed"] = seed
    made: Method = kind(**given)
    return made


def _value(parameter: str, text: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise ValueError(f"{parameter} is one of {', '.join(get_args(hint))}, not {text!r}")
        return text
    if get_args(hint):  # optional
        return None if text == "none" else _value(parameter, text, get_args(hint)[0])
    try:
        return hint(text)
    except ValueError:
        raise ValueError(f"{parameter} is {'a whole number' if hint is int else 'a number'}, not {text!r}") from None
