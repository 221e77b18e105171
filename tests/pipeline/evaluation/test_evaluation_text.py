"""What people read of an evaluation: tables that fit, what cannot be judged, and names that cannot act."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.summary.summarise import summarise
from pipeline.evaluation.text.write import lines, markdown
from pipeline.text.tables import columns
from tests.support.tables.metrics import difference, everything, row, sanity, summed
from transforms.tables import Row

FEW = "too few products are like the query without one of its attributes"


def removals(method: str, reasons: list[tuple[str, str] | None], **more: Any) -> list[Row]:
    """The four rows of attribute removal of a pair each: measured, or a reason and a message."""
    rows = []
    for query, why in enumerate(reasons):
        for metric in ("removal", "removal_oracle", "oracle_first", "oracle_among_five"):
            details: dict[str, Any] = {"reason": why[0], "message": why[1]} if why else {}
            rows.append(row(metric, method, query, None if why else 0.5, **details, **more))
    return rows


def section(shown: list[str], title: str) -> list[str]:
    """The lines under ``title``, until the next title: a line after an empty one that no rule or table follows."""
    start = shown.index(title) + 1
    titles = ("Insertion", "Regions", "Attributes", "Average", "Sanity", "Other", "Differences", "Failures", "Not ")
    later = [at for at in range(start, len(shown)) if not shown[at - 1] and shown[at].startswith(titles)]
    return shown[start : later[0] if later else None]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_the_rows_shows_nowhere(seed: int) -> None:
    rows = everything() + removals("rise", [("not_scored", "a"), ("not_scored", "b"), ("not_found", "c")])
    mixed = random.Random(seed).sample(rows, len(rows))
    one, other = summarise(rows, resamples=50), summarise(iter(mixed), resamples=50)
    assert lines(one) == lines(other)
    assert markdown(one) == markdown(other)


def test_nothing_to_show() -> None:
    assert len(lines(summed([]))) == 1


def test_failures_have_an_example_and_no_number() -> None:
    rows = [
        row("iou", "rise", 0, 0.25),
        row("iou", "rise", 1, None, reason="not_found", message="b is gone"),
        row("iou", "rise", 2, None, reason="not_found", message="a is gone"),
        row("iou", "lime", 0, None, reason="model_failed"),
    ]
    shown = lines(summed(rows))
    assert section(shown, "Failures") == [
        "2 without a value: not_found, such as: a is gone",
        "1 without a value: model_failed",
    ]
    assert "Not judged" not in shown
    assert "nan" not in "\n".join(shown).lower()


def test_average_precision_is_one_line() -> None:
    rows = [
        row("average_precision", "model", 0, value, attribute=name, pair_id=None, query_id=None, weight=None)
        for name, value in (("striped", 0.5), ("red", 0.75), ("long", 0.25), ("blue", 0.9))
    ]
    assert "model: mean 0.600 of 4 attributes" in lines(summed(rows))


def test_what_cannot_be_judged_by_hand() -> None:
    rows = removals("rise", [("not_scored", FEW)] * 3)
    shown = lines(summed(rows))
    assert section(shown, "Attributes")[3:] == [
        "",
        "method  oracle's first  oracle's among five  removal  oracle's removal  queries  pairs  not judged",
        "------  --------------  -------------------  -------  ----------------  -------  -----  ----------",
        "rise                 -                    -        -                 -        0      0           3",
        "",
        f"rise: 3 pairs cannot be judged: {FEW}",
        "",
    ]
    # four measures a pair
    assert section(shown, "Not judged")[1:] == [f"12 without a value: not_scored, such as: {FEW}"]
    assert "Failures" not in shown
    page = markdown(summed(rows))
    assert f"- rise: 3 pairs cannot be judged: {FEW}\n" in page
    assert "## Not judged" in page


def test_failures_and_what_cannot_be_judged_stand_apart() -> None:
    few, none = ("not_scored", "too few products"), ("not_scored", "no drop")
    rows = [
        one for one in removals("rise", [None, few, ("not_found", "gone"), none, few]) if one["metric"] == "removal"
    ]
    shown = lines(summed(rows))
    assert section(shown, "Attributes")[3:] == [
        "",
        "method  removal  queries  pairs  failed  not judged",
        "------  -------  -------  -----  ------  ----------",
        "rise      0.500        1      1       1           3",
        "",
        "rise: 3 pairs cannot be judged: too few products (2); no drop (1)",
        "",
    ]
    assert section(shown, "Failures") == ["1 without a value: not_found, such as: gone", ""]
    assert section(shown, "Not judged")[1:] == ["3 without a value: not_scored, such as: no drop"]
    assert shown.index("Failures") < shown.index("Not judged")


def test_methods_of_which_the_same_holds_share_a_line() -> None:
    rows = removals("rise", [("not_scored", FEW)]) + removals("lime", [("not_scored", FEW)])
    rows += removals("mask", [("not_scored", "")] * 2) + removals("grad", [None])
    attributes = section(lines(summed(rows)), "Attributes")
    assert [line for line in attributes if "cannot" in line] == [
        f"lime, rise: 1 pair cannot be judged: {FEW}",
        "mask: 2 pairs cannot be judged",
    ]


def test_each_side_says_why_for_itself() -> None:
    reference = removals("rise", [("not_scored", "attributes are of queries")], side="reference")
    shown = lines(summed(removals("rise", [("not_scored", FEW)]) + reference))
    assert f"rise: 1 pair cannot be judged: {FEW}" in section(shown, "Attributes")
    assert "rise: 1 pair cannot be judged: attributes are of queries" in section(shown, "Attributes (reference side)")


def test_a_network_or_level_without_any_agreement_keeps_its_row() -> None:
    rows = [*sanity("rise", 0.5, [None, None], map="stored"), *sanity("rise", 1.0, [0.25], map="stored")]
    rows.append(row("noise", "rise", 0, None, reason="no_map", message="flat", map="stored"))
    assert section(lines(summed(rows)), "Sanity (stored maps)")[4:] == [
        "the map of, or with               rise  queries  pairs  failed",
        "-------------------------------  -----  -------  -----  ------",
        "50 % random, from block-0.5 up       -        0      0       2",
        "100 % random, from block-1.0 up  0.250        1      1       0",
        "a little noise on the query          -        0      0       1",
        "",
    ]


def test_strangers_are_named_by_their_method_where_there_are_several() -> None:
    def strange(method: str) -> list[Row]:
        unrelated_pair = [row("iou", f"stranger_{method}", query, 0.1, control=True) for query in range(2)]
        return [*(row("iou", method, query, 0.5) for query in range(2)), *unrelated_pair]

    one = lines(summed(strange("rise")))
    shown = section(one, "Regions")
    rule = next(at for at, line in enumerate(shown) if line.startswith("---"))  # below a note of any length
    assert [line.split("  ")[0] for line in shown[rule + 1 : -1]] == ["rise", "stranger (control)"]
    assert any(line.startswith("rise − stranger (control)") for line in one)
    two = lines(summed(strange("rise") + strange("integrated_gradients")))
    assert any(line.startswith("stranger of rise (control)") for line in section(two, "Regions"))
    assert any(
        line.startswith("integrated_gradients − stranger of integrated_gradients (control)")
        for line in section(two, "Differences")
    )
    assert "stranger_" not in "\n".join(one + two) + markdown(summed(strange("rise")))


def test_controls_of_removal_are_shown_and_compared() -> None:
    rows = removals("rise", [None] * 6)
    for control, value in (("random", 0.25), ("confidence", 0.4)):
        some = removals(control, [None] * 6, control=True)
        rows += [{**one, "value": value} if one["metric"] != "removal_oracle" else one for one in some]
    shown = lines(summed(rows))
    table = section(shown, "Attributes")
    assert {line.split("  ")[0] for line in table if "(control)" in line} == {
        "confidence (control)",
        "random (control)",
    }
    gained = "".join(line for line in section(shown, "Differences") if line.startswith("rise − random"))
    # 0.5 / 0.5 less 0.25 / 0.5, and 0.5 less 0.25 twice
    assert gained.count("+0.500 (+0.500 to +0.500) better") == 1
    assert gained.count("+0.250 (+0.250 to +0.250) better") == 2


def test_lines_fit_and_say_it_all() -> None:
    shown = lines(summed(everything()))
    assert max(map(columns, shown)) <= 110
    text = "\n".join(shown)
    titles = ["Insertion and deletion (fill white, stored maps)", "Regions (stored maps)", "Attributes (stored maps)"]
    titles += ["Sanity (stored maps)", "Other metrics (stored maps)", "Differences (fill mean, stored maps)"]
    titles += ["Sanity verdicts", "Failures"]
    assert set(titles) <= set(shown)
    places = [text.index(part) for part in ("random, from b0.06 up *", "50 % random", "100 % random", "the ceiling")]
    assert places == sorted(places)
    assert "integrated_gradients − random (control)" in text
    assert "-, raw" not in text


def test_a_table_by_hand() -> None:
    rows = [row("pointing", "rise", query, query % 2) for query in range(2)] + [row("iou", "rise", 0, 0.5)]
    shown = lines(summed(rows))
    assert shown[-3:] == [
        "method                pointing    IoU  queries  pairs",
        "------  ----------------------  -----  -------  -----",
        "rise    0.500 (0.000 to 1.000)  0.500    2 / 1  2 / 1",
    ]
    assert "| rise | 0.500 (0.000 to 1.000) | 0.500 | 2 / 1 | 2 / 1 |" in markdown(summed(rows))


def test_few_queries_are_marked() -> None:
    rows = [row("iou", method, query, value) for query in range(3) for method, value in (("a", 0.2), ("b", 0.1))]
    summary = summed(rows)
    assert difference(summary, "iou", "a", "b").separated == "better"
    assert "+0.100 (+0.100 to +0.100) better?" in "\n".join(lines(summary))


def test_names_cannot_act_on_a_terminal_or_a_page() -> None:
    rows = [row("iou", "a\x1b[2J|<b>", 0, None, reason="odd\n", message="\x07bell"), row("\x1bx", "a", 0, 0.5)]
    rows += sanity("a\x1b", 0.6, [0.1, 0.2], block="\x1bblock", map="\x1b")
    summary = summed(rows)
    for text in (*lines(summary), *markdown(summary).split("\n")):
        assert text.isprintable()
    assert "a\\\\x1b\\[2J\\|\\<b>" in markdown(summary)
