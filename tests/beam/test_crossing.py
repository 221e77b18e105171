"""What crosses from step to step, and that nothing else does."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam import coders
from apache_beam.pipeline import AppliedPTransform
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from pipeline.audit import launch
from pipeline.audit.graph import build
from pipeline.audit.options import AuditOptions
from transforms.beam.crossing import COUNTS, RECORDS, EmbeddingOutcome, Join, RecordCoder
from transforms.beam.typed import PCollection, PipelineVisitor, Step, Tagged, create, map_each, split
from transforms.core.records import EmbeddedImage, LoadFailure, Pair
from transforms.core.statistics.nulls import NullReferences
from transforms.tables.cells import TableRow

PAIR = Pair("p", "q", "r", extra='{"a": 1}', served_score=0.1, query_attributes=("colour=red",))
FAILURE = LoadFailure("load", "not_found", "gone", True)


@pytest.mark.parametrize("record", [PAIR, EmbeddingOutcome("a.png", FAILURE), TableRow("images", {"address": "a"})])
def test_equal_records_are_equal_bytes(record: Any) -> None:
    coder = coders.registry.get_coder(type(record))
    assert isinstance(coder, RecordCoder)
    assert coder.is_deterministic()
    data = coder.encode(record)
    assert coder.encode(replace(record)) == data
    back = coder.decode(data)
    assert coder.encode(back) == data
    if not isinstance(record, TableRow):
        assert back == record


def test_vectors_cross_to_the_bit() -> None:
    coder = RecordCoder()
    embedding = np.random.default_rng(0).normal(size=512).astype(np.float32)
    image = EmbeddedImage("a.png", "0" * 64, 7, 9, embedding, perturbed=embedding.reshape(8, 64))
    back = coder.decode(coder.encode(EmbeddingOutcome("a.png", image))).outcome
    assert back.embedding.tobytes() == embedding.tobytes()
    assert back.perturbed.tobytes() == embedding.tobytes()
    drawn = coder.decode(coder.encode(NullReferences.of([image]))).drawn
    assert [(digest, vector.tobytes()) for digest, vector in drawn] == [("0" * 64, embedding.tobytes())]


@pytest.mark.engine
def test_a_join_gives_each_key_both_sides(tmp_path: Path) -> None:
    pairs = [replace(PAIR, pair_id=name) for name in "ab"]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        first = pipeline | "First" >> create(tuple[str, Pair], [("x", pairs[0]), ("y", pairs[1])])
        second = pipeline | "Second" >> create(tuple[str, str], [("y", "1"), ("z", "2")])
        joined = (first, second) | "Join" >> Join(str, Pair, str)
        expected = [("x", ([pairs[0]], [])), ("y", ([pairs[1]], ["1"])), ("z", ([], ["2"]))]
        assert_that(joined, equal_to(expected))


@pytest.mark.engine
def test_a_tag_sends_an_element_to_its_output() -> None:
    def odd(number: int) -> Iterable[int | Tagged]:
        yield COUNTS(("odd", number)) if number % 2 else number

    assert pickle.loads(pickle.dumps(COUNTS)).kind == COUNTS.kind
    with beam.Pipeline(FnApiRunner()) as pipeline:
        outputs = pipeline | "Numbers" >> create(int, range(4)) | "Odd" >> split(int, int, odd, COUNTS)
        assert_that(outputs.main, equal_to([0, 2]), label="main")
        assert_that(outputs[COUNTS], equal_to([("odd", 1), ("odd", 3)]), label="counts")
        counts: Any = outputs[COUNTS]
        assert counts.element_type == beam.typehints.Tuple[str, int]


@pytest.mark.engine
def test_a_step_is_frozen_and_its_label_is_the_caller_s() -> None:
    @dataclass(frozen=True)
    class Add(Step[PCollection[int], PCollection[int]]):
        number: int

        def expand(self, inputs: PCollection[int]) -> PCollection[int]:
            return inputs | "Number" >> map_each(int, int, lambda one: one + self.number)

    step = Add(3)
    with pytest.raises(FrozenInstanceError):
        step.number = 4  # type: ignore[misc]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        numbers = pipeline | "Numbers" >> create(int, [1])
        assert_that(numbers | "Once" >> step | "Twice" >> step, equal_to([7]))


class Elements(PipelineVisitor):
    """By the step's name: the coders of what is grouped, and the types of what our own steps give."""

    def __init__(self) -> None:
        self.grouped: dict[str, coders.Coder] = {}
        self.given: dict[str, Any] = {}

    def visit_transform(self, node: AppliedPTransform) -> None:
        if isinstance(node.transform, beam.GroupByKey):
            (kind,) = [one.element_type for one in node.inputs]
            self.grouped[node.full_label] = coders.registry.get_coder(kind)
        if type(node.parent.transform).__name__ in ("_Expanded", "NoneType"):  # not within a step of Beam's own
            self.given |= {f"{node.full_label} {tag}": one.element_type for tag, one in node.outputs.items()}


def leaves(coder: coders.Coder) -> list[coders.Coder]:
    inner = coder.coders() if isinstance(coder, coders.TupleCoder) else []
    return [leaf for one in inner for leaf in leaves(one)] or [coder]


@pytest.fixture(scope="module")
def elements(bundle: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Elements:
    """Of an audit."""
    options = AuditOptions(
        (str(drawn / "pairs.csv"),),
        str(bundle),
        str(tmp_path_factory.mktemp("crossing")),
        "r",
        catalogue=str(drawn / "catalogue.csv"),
        masks=5,
    )
    found, planned, pipeline = Elements(), launch.plan(options, lambda _: None), beam.Pipeline(FnApiRunner())
    build(pipeline, planned)
    pipeline.visit(found)
    return found


def test_no_record_or_row_crosses_a_shuffle_pickled(elements: Elements) -> None:
    beams_own = ("SpreadFiles", "Distinct", "Reshuffle", "ToDict", "Judge/Thresholds")  # texts, numbers, side inputs
    ours = {name: coder for name, coder in elements.grouped.items() if not any(part in name for part in beams_own)}
    assert {name.rpartition("/GroupByKey")[0] or name for name in ours} >= {
        "Pairs/GroupPairIds",
        "Resolve query/Join",
        "Queries/JoinOthers",
        "Queries/GroupByImage",
        "Tables/GroupShards",
    }
    for name, coder in ours.items():
        kinds = {type(leaf) for leaf in leaves(coder.value_coder())}
        assert coders.FastPrimitivesCoder not in kinds, (name, coder)


def test_every_step_of_an_audit_says_what_it_gives(elements: Elements) -> None:
    assert len(elements.given) > 30
    assert [name for name, kind in elements.given.items() if kind == beam.typehints.Any] == []


def test_every_record_has_the_coder() -> None:
    assert all(isinstance(coders.registry.get_coder(kind), RecordCoder) for kind in (*RECORDS, TableRow))
