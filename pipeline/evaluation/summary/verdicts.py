"""The sanity verdict of each method.

It is that of J. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3: a map that stays the same
when the network's blocks are replaced by random ones, from the head down, does not explain what the network has
learned. It is read off where at least half of the blocks are random.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from pipeline.evaluation.summary.findings import Measure, MeasurementSetting, SanityVerdict
from pipeline.evaluation.summary.order import depth_order, setting_of, sortable
from pipeline.evaluation.summary.wording import described, interval_text, name_of, percent
from transforms.core.metrics.registry import CURVES, REGIONS, family_of, needing
from transforms.core.statistics.bootstrap import Interval

HEAD_SHARE = 0.5
"""The verdict falls at the first judged network with at least this share of its blocks random."""
SAME = 0.95
"""Maps that fail with at least this agreement are said not to depend on the network; below, to depend little on it."""


def verdicts(measures: Sequence[Measure], limit: float) -> list[SanityVerdict]:
    """The verdict of everything whose sanity was measured, and that of any other method: none.

    There are no verdicts where nobody's sanity was measured.
    """
    cascades: dict[tuple[bool, str, MeasurementSetting], list[Measure]] = defaultdict(list)
    for one in measures:
        if one.metric in needing("cascade"):
            cascades[one.control, one.method, setting_of(one)].append(one)
    if not cascades:
        return []
    several = len({where for _, _, where in cascades}) > 1
    tried = {method for control, method, _ in cascades if not control}
    for one in measures:
        if not one.control and family_of(one.metric) in (CURVES, REGIONS) and one.method not in tried:
            cascades[False, one.method, MeasurementSetting(None, None, None)] = []
    found = []
    for control, method, where in sorted(cascades, key=lambda key: (*key[:2], sortable(key[2]))):
        place = f" ({described(where)})" if several and described(where) else ""
        label = name_of(method, control) + place
        found.append(_verdict(label, (method, control), where, cascades[control, method, where], limit))
    return found


def _verdict(
    label: str, whose: tuple[str, bool], where: MeasurementSetting, cascade: Sequence[Measure], limit: float
) -> SanityVerdict:
    """The verdict by the first network of ``cascade`` that is judged and random enough."""
    judged = [
        one
        for one in cascade
        if one.judged and one.depth is not None and one.depth >= HEAD_SHARE and math.isfinite(one.interval.estimate)
    ]
    if not judged:
        text = f"{label}: nothing to judge: no agreement measured with {HEAD_SHARE:.0%} or more of the blocks random"
        return SanityVerdict(*whose, *where, None, None, 0, None, None, False, text.replace("%", " %"))
    one = min(judged, key=depth_order)
    agreement, depth = one.interval, depth_order(one)[0]
    passes, straddles = agreement.estimate < limit, agreement.low < limit <= agreement.high
    text = (
        f"{label}: agreement with the original {interval_text(agreement, 2)} once {percent(depth)} of the blocks are "
        f"random, {'under' if passes else 'not under'} {limit:g}: "
    )
    text += "passes" if passes else f"FAILS: its maps {_dependence(agreement)} what the network has learned"
    if straddles:
        text += f" (not certain: the interval straddles {limit:g})"
    return SanityVerdict(*whose, *where, one.block, depth, one.queries, agreement, passes, straddles, text)


def _dependence(agreement: Interval) -> str:
    return "do not depend on" if agreement.estimate >= SAME else "depend little on"
