"""Beam with types: the one place that knows what Beam's own annotations leave out.

To a type checker Beam is untyped. Here its collections, steps and outputs say of what they are. A step names what it
takes and what it gives: a type checker holds the function between against both, Beam holds what comes in against what
it takes while the pipeline is built (but for ``batch``, ``flatten`` and ``combine_per_key``, which are a type checker's
alone), and chooses the coder of the elements by what it gives (``transforms.beam.crossing``)::

    keyed = pairs | "ById" >> map_each(Pair, tuple[str, Pair], lambda pair: (pair.pair_id, pair))
    groups = keyed | "GroupById" >> group_by_key(str, Pair)

Only what Spark, Flink and Prism run alike is here: Create, Reshuffle, ParDo with tagged outputs and singleton side
inputs, Flatten, GroupByKey, CombinePerKey, BatchElements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import apache_beam as beam
from apache_beam import coders, pvalue
from apache_beam.utils import shared

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Element = TypeVar("Element", covariant=True)
T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")
V = TypeVar("V")

if TYPE_CHECKING:
    Applied = TypeVar("Applied")

    class Pipeline:
        """What steps are added to."""

        def __or__(self, step: Transform[Pipeline, Applied]) -> Applied: ...

    class PCollection(Generic[Element]):
        """Elements, perhaps on many machines."""

        pipeline: Pipeline

        def __or__(self, step: Transform[PCollection[Element], Applied]) -> Applied: ...

    class Transform(Generic[In, Out]):
        """A step of Beam's."""

        def __rrshift__(self, label: str) -> Transform[In, Out]: ...
        def __ror__(self, inputs: In) -> Out: ...

    class Outputs(Generic[Element]):
        """The outputs of a step that has several: ``main``, and one for each tag."""

        main: PCollection[Element]

        def __getitem__(self, tag: Tag[T]) -> PCollection[T]: ...

    class DoFn(Generic[In]):
        """Work on one element after another; ``setup`` comes first, once a worker's thread."""

        def setup(self) -> None: ...
        def process(self, element: In) -> Any: ...

    class SidedDoFn(Generic[In, Element]):
        """Likewise, with the one element of a side input beside each."""

        def setup(self) -> None: ...
        def process(self, element: In, side: Any) -> Any: ...

    class SideInput(Generic[Element]):
        """The one element of a collection, as a further argument of a step's function."""

    class Tagged:
        """An element on its way to the output of a tag."""

    class Coder:
        """Elements to bytes and back."""

    class PipelineVisitor:
        """What is shown a pipeline's steps, one after another: ``pipeline.visit(visitor)``."""

        def enter_composite_transform(self, node: Any) -> None: ...
        def leave_composite_transform(self, node: Any) -> None: ...
        def visit_transform(self, node: Any) -> None: ...

    class Shared:
        """What all threads of a worker's process have together."""

        def acquire(self, make: Callable[[], T]) -> T: ...

else:
    Pipeline, PCollection, Transform = beam.Pipeline, beam.PCollection, beam.PTransform
    Outputs, SideInput, Tagged = pvalue.DoOutputsTuple, pvalue.AsSingleton, pvalue.TaggedOutput
    Coder, PipelineVisitor, Shared = coders.Coder, beam.pipeline.PipelineVisitor, shared.Shared

    class DoFn(beam.DoFn, Generic[In]):
        """Beam's, which takes no type parameters."""

    class SidedDoFn(beam.DoFn, Generic[In, Element]):
        """Likewise."""


class Tag(str, Generic[T]):
    """The name of a further output, and the type of its elements; called with an element, it sends it there."""

    kind: type[T]

    def __new__(cls, name: str, kind: type[T]) -> Tag[T]:
        """An output ``name`` of elements of ``kind``."""
        made = super().__new__(cls, name)
        made.kind = kind
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """How pickle makes it again."""
        return Tag, (str(self), self.kind)

    def __call__(self, element: T) -> Tagged:
        """``element``, to be yielded by a step that has this output."""
        tagged: Tagged = pvalue.TaggedOutput(str(self), element)
        return tagged


class Step(Generic[In, Out]):
    """A step that is made of others, a frozen dataclass of its settings.

    Beam writes labels into its own transforms, so that none of them can be frozen: one is made where a label is given.
    """

    def expand(self, inputs: In) -> Out:
        """Adds the steps that this one is made of to the pipeline of ``inputs``."""
        raise NotImplementedError

    def __rrshift__(self, label: str) -> Transform[In, Out]:
        """The step under a ``label``."""
        labelled: Transform[In, Out] = label >> _Expanded(self)
        return labelled


if TYPE_CHECKING:

    class _Expanded:
        def __init__(self, step: Any) -> None: ...
        def __rrshift__(self, label: str) -> Any: ...

else:

    class _Expanded(beam.PTransform):
        def __init__(self, step):
            super().__init__()
            self._step = step

        def expand(self, inputs):
            return self._step.expand(inputs)


def pair_of(first: type[K], second: type[T]) -> type[tuple[K, T]]:
    """``tuple[first, second]``, of types that are known while the pipeline is built."""
    kind: Any = GenericAlias(tuple, (first, second))
    return cast("type[tuple[K, T]]", kind)


def list_of(kind: type[T]) -> type[list[T]]:
    """``list[kind]``, likewise."""
    made: Any = GenericAlias(list, (kind,))
    return cast("type[list[T]]", made)


def group_of(key: type[K], kind: type[T]) -> type[tuple[K, Iterable[T]]]:
    """``tuple[key, Iterable[kind]]``, likewise."""
    made: Any = GenericAlias(tuple, (key, GenericAlias(Iterable, (kind,))))
    return cast("type[tuple[K, Iterable[T]]]", made)


_ON_THE_SIDE = Any
"""Of a side input, which Beam checks nothing of."""


def _typed(step: Any, gives: Any, *takes: Any) -> Any:
    return step.with_input_types(*takes).with_output_types(gives)


def _outputs(step: Any, gives: Any, tags: Sequence[Tag[Any]], *takes: Any) -> Any:
    kinds = {str(tag): tag.kind for tag in tags}
    return step.with_input_types(*takes).with_output_types(gives, **kinds).with_outputs(*kinds, main="main")


def create(kind: type[T], elements: Iterable[T], *, reshuffle: bool = True) -> Transform[Pipeline, PCollection[T]]:
    """A collection of ``elements``, dealt out to the workers where ``reshuffle`` says so."""
    made: Transform[Pipeline, PCollection[T]] = beam.Create(list(elements), reshuffle=reshuffle).with_output_types(kind)
    return made


def map_each(takes: type[T], gives: type[U], function: Callable[[T], U]) -> Transform[PCollection[T], PCollection[U]]:
    """``function`` of each element."""
    made: Transform[PCollection[T], PCollection[U]] = _typed(beam.Map(function), gives, takes)
    return made


def map_with(
    takes: type[T], gives: type[U], function: Callable[[T, V], U], side: SideInput[V]
) -> Transform[PCollection[T], PCollection[U]]:
    """``function`` of each element and of the one that is on the ``side``."""
    made: Transform[PCollection[T], PCollection[U]] = _typed(beam.Map(function, side), gives, takes, _ON_THE_SIDE)
    return made


def flat_map(
    takes: type[T], gives: type[U], function: Callable[[T], Iterable[U]]
) -> Transform[PCollection[T], PCollection[U]]:
    """All that ``function`` makes of each element."""
    made: Transform[PCollection[T], PCollection[U]] = _typed(beam.FlatMap(function), gives, takes)
    return made


def flat_map_with(
    takes: type[T], gives: type[U], function: Callable[[T, V], Iterable[U]], side: SideInput[V]
) -> Transform[PCollection[T], PCollection[U]]:
    """All that ``function`` makes of each element and of the one that is on the ``side``."""
    made: Transform[PCollection[T], PCollection[U]] = _typed(beam.FlatMap(function, side), gives, takes, _ON_THE_SIDE)
    return made


def filter_each(kind: type[T], keep: Callable[[T], bool]) -> Transform[PCollection[T], PCollection[T]]:
    """The elements that ``keep`` holds for."""
    made: Transform[PCollection[T], PCollection[T]] = _typed(beam.Filter(keep), kind, kind)
    return made


def split(
    takes: type[T], gives: type[U], function: Callable[[T], Iterable[U | Tagged]], *tags: Tag[Any]
) -> Transform[PCollection[T], Outputs[U]]:
    """All that ``function`` makes of each element, to the output ``main`` unless it is tagged with one of ``tags``."""
    made: Transform[PCollection[T], Outputs[U]] = _outputs(beam.FlatMap(function), gives, tags, takes)
    return made


def par_do(takes: type[T], gives: type[U], work: DoFn[T], *tags: Tag[Any]) -> Transform[PCollection[T], Outputs[U]]:
    """What ``work`` makes of each element, as :func:`split`."""
    made: Transform[PCollection[T], Outputs[U]] = _outputs(beam.ParDo(work), gives, tags, takes)
    return made


def par_do_with(
    takes: type[T], gives: type[U], work: SidedDoFn[T, V], side: SideInput[V], *tags: Tag[Any]
) -> Transform[PCollection[T], Outputs[U]]:
    """What ``work`` makes of each element and of the one on the ``side``, as :func:`split`."""
    made: Transform[PCollection[T], Outputs[U]] = _outputs(beam.ParDo(work, side), gives, tags, takes, _ON_THE_SIDE)
    return made


def reshuffle(kind: type[T]) -> Transform[PCollection[T], PCollection[T]]:
    """The elements, dealt out to the workers anew."""
    made: Transform[PCollection[T], PCollection[T]] = beam.Reshuffle().with_output_types(kind)
    return made


def batch(kind: type[T], size: int) -> Transform[PCollection[T], PCollection[list[T]]]:
    """``size`` elements at a time, fewer where a bundle ends."""
    step = beam.BatchElements(min_batch_size=size, max_batch_size=size)
    made: Transform[PCollection[T], PCollection[list[T]]] = step.with_output_types(list_of(kind))
    return made


def distinct(kind: type[T]) -> Transform[PCollection[T], PCollection[T]]:
    """Each of equal elements once."""
    made: Transform[PCollection[T], PCollection[T]] = beam.Distinct().with_output_types(kind)
    return made


def flatten(kind: type[T]) -> Transform[Sequence[PCollection[T]], PCollection[T]]:
    """The elements of several collections as one."""
    made: Transform[Sequence[PCollection[T]], PCollection[T]] = beam.Flatten().with_output_types(kind)
    return made


def group_by_key(
    key: type[K], kind: type[T]
) -> Transform[PCollection[tuple[K, T]], PCollection[tuple[K, Iterable[T]]]]:
    """The elements of each key, which a runner may show but once, and in any order."""
    made: Transform[PCollection[tuple[K, T]], PCollection[tuple[K, Iterable[T]]]]
    made = _typed(beam.GroupByKey(), group_of(key, kind), pair_of(key, kind))
    return made


def combine_per_key(
    kind: type[tuple[K, T]], combine: Callable[[Iterable[T]], T]
) -> Transform[PCollection[tuple[K, T]], PCollection[tuple[K, T]]]:
    """``combine`` of the elements of each key, which must not depend on their order or grouping."""
    made: Transform[PCollection[tuple[K, T]], PCollection[tuple[K, T]]]
    made = beam.CombinePerKey(combine).with_output_types(kind)
    return made


def first_per_key(
    key: type[K], kind: type[T], most: int
) -> Transform[PCollection[tuple[K, T]], PCollection[tuple[K, list[T]]]]:
    """The ``most`` smallest elements of each key."""
    step = beam.combiners.Top.PerKey(most, reverse=True)
    made: Transform[PCollection[tuple[K, T]], PCollection[tuple[K, list[T]]]]
    made = step.with_output_types(pair_of(key, list_of(kind)))
    return made


def to_list(kind: type[T]) -> Transform[PCollection[T], PCollection[list[T]]]:
    """All elements as one, which is held in memory."""
    made: Transform[PCollection[T], PCollection[list[T]]]
    made = beam.combiners.ToList().with_output_types(list_of(kind))
    return made


def to_dict(kind: type[dict[K, T]]) -> Transform[PCollection[tuple[K, T]], PCollection[dict[K, T]]]:
    """All elements, whose keys differ, as one mapping, which is held in memory."""
    made: Transform[PCollection[tuple[K, T]], PCollection[dict[K, T]]]
    made = beam.combiners.ToDict().with_output_types(kind)
    return made


def singleton(elements: PCollection[T]) -> SideInput[T]:
    """The one element of ``elements``, on the side."""
    side: SideInput[T] = pvalue.AsSingleton(elements)
    return side
