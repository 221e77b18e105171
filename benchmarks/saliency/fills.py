"""Which fill should be the default? Maps under each fill, and how well each map does when others judge it.

A map under fill A says which pixels matter *when A hides the others*. The question is whose maps say something about
the image rather than about A. So the top fifth of a map is hidden by every fill, and by other photographs' pixels,
and maps are compared before judges that are not the fill that made them.

Deletion as in V. Petsiuk, A. Das, K. Saenko, "RISE", BMVC 2018, section 4.1, at one point of its curve and under
fills that the map was not made with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from benchmarks.saliency.banks import in_border
from benchmarks.support.machine import markdown_table, paragraph
from benchmarks.support.photographs import Given, Photographs, Query, nearest, with_progress
from transforms.core.imaging.maps import background_of, map_statistics
from transforms.core.records import Float32, Float64
from transforms.core.saliency.rise import rise
from transforms.core.similarity import similarities
from transforms.core.statistics.bootstrap import mean

SHARE = 0.2
"""The part of the pixels that is hidden."""
RANDOM_REGIONS = 8
PHOTOS = 4
SAME = 24.0
"""Two fills that differ by less than this mean grey level on an image are one judge for it."""


@dataclass
class FillMeasurements:
    """One value a query (the mean over its references) everywhere: arrays [Q, …] after all queries are in.

    ``maps_agree`` [Q, F, F] correlations between fills. ``halves`` [Q, F] correlation of the maps of two halves of
    the masks. ``drop`` [Q, A, B]: by how much hiding the top fifth of the map of A by B lowers the similarity; A
    runs over fills, "random region" and "centre", B over fills and "another photo". ``same`` [Q, A, B]: whether B
    shows about the same as A. ``base`` [Q] is the similarity itself. ``natural`` [Q, F], ``hidden`` [Q, F] and
    ``itself`` [Q]: cosine to the nearest other catalogue image, of the RISE-masked query, the wholly hidden one and
    the query. ``described`` [Q, F, 5]: shares of peaks in border and background, shares of evidence there, deviation
    of the similarity over masks.
    """

    fills: tuple[str, ...]
    values: dict[str, list[Float64]] = field(default_factory=dict)

    def add(self, **values: Float64 | float) -> None:
        """Appends a query's values."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(np.asarray(value, np.float64))

    def __getitem__(self, name: str) -> Float64:
        return np.stack(self.values[name])


def measure_fills(photographs: Photographs, fills: tuple[str, ...], *, queries: int) -> FillMeasurements:
    """Explains ``queries`` queries under each fill and judges the maps."""
    found = FillMeasurements(fills)
    rng = np.random.default_rng(0)
    for query in with_progress(photographs.queries[:queries], "fills"):
        maps = _maps(photographs, query, fills, found)
        _judge(photographs, query, maps, found, rng)
    return found


def _maps(photographs: Photographs, query: Query, fills: tuple[str, ...], found: FillMeasurements) -> Float64:
    """The query's maps [F, R, H, W]; adds what describes them to ``found``."""
    function, design = photographs.models.bundle.similarity_function, photographs.design(0)
    half = design.n // 2
    halves = (
        replace(design, grids=design.grids[:half], shifts=design.shifts[:half], key="first half"),
        replace(design, grids=design.grids[half:], shifts=design.shifts[half:], key="second half"),
    )
    base = similarities(query.references, photographs.base(query), function)[:, 0]
    background = background_of(query.image.pixels)
    maps = np.empty((len(fills), len(base), *photographs.size))
    agree, natural, hidden, described = [], [], [], []
    for at, fill in enumerate(fills):
        embedded = photographs.perturbed(query, fill, 0)
        scores = similarities(query.references, embedded, function)
        maps[at] = design.estimate(scores, base)
        parts = halves[0].estimate(scores[:, :half], base), halves[1].estimate(scores[:, half:], base)
        agree.append(np.mean([_correlation(one, other) for one, other in zip(*parts, strict=True)]))
        nothing = np.zeros((1, *photographs.size), np.float32)
        wholly = photographs.masked(query.image.pixels, Given(nothing), photographs.fill(query, fill))
        natural.append(nearest(photographs, embedded, [query.address]).mean())
        hidden.append(nearest(photographs, wholly, [query.address])[0])
        statistics = [map_statistics(saliency, background) for saliency in maps[at]]
        described.append(
            [
                np.mean([in_border(one.peak_row, one.peak_column, photographs.size) for one in statistics]),
                np.mean([background[one.peak_row, one.peak_column] for one in statistics]),
                np.mean([one.border_share for one in statistics]),
                np.mean([one.background_share for one in statistics]),
                np.std(scores, axis=1).mean(),
            ]
        )
    pairs = np.array([[[_correlation(*both) for both in zip(a, b, strict=True)] for b in maps] for a in maps])
    itself = nearest(photographs, photographs.base(query), [query.address])[0]
    border = statistics[0].border_area
    found.add(maps_agree=pairs.mean(axis=2), halves=np.array(agree), described=np.array(described), base=base.mean())
    found.add(natural=np.array(natural), hidden=np.array(hidden), itself=itself)
    found.add(background_area=background.mean(), border_area=border)
    return maps


def _judge(
    photographs: Photographs, query: Query, maps: Float64, found: FillMeasurements, rng: np.random.Generator
) -> None:
    function, size, fills = photographs.models.bundle.similarity_function, photographs.size, found.fills
    fill_count, reference_count = maps.shape[:2]
    centre = -np.hypot(*np.meshgrid(*(np.arange(side) / side - 0.5 + 0.5 / side for side in size), indexing="ij"))
    # blobs of the size of a mask's cells, where a map's top fifth is of blobs too
    blobs = rise(size, masks=64 * RANDOM_REGIONS, sampling="independent", seed=int(rng.integers(2**31)))
    noise = blobs.masks(0, blobs.n).reshape(RANDOM_REGIONS, 64, *size).sum(axis=1, dtype=np.float64)
    hide = Given(np.stack([_without_top(one) for one in (*maps.reshape(-1, *size), *noise, centre)]))
    base = similarities(query.references, photographs.base(query), function)[:, 0]
    judges = {fill: [photographs.fill(query, fill)] for fill in fills}
    others = rng.choice(
        [other for other in range(len(photographs.queries)) if other != query.number], PHOTOS, replace=False
    )
    judges["another photo"] = [photographs.queries[other].image.pixels[None].astype(np.float32) for other in others]
    drop = np.empty((fill_count + 2, len(judges)))
    for at, shown in enumerate(judges.values()):
        embedded = [photographs.masked(query.image.pixels, hide, one) for one in shown]
        lost = base[:, None] - np.mean([similarities(query.references, one, function) for one in embedded], axis=0)
        own = lost[:, : fill_count * reference_count].reshape(reference_count, fill_count, reference_count)
        drop[:fill_count, at] = np.mean([own[r, :, r] for r in range(reference_count)], axis=0)
        drop[fill_count, at] = lost[:, fill_count * reference_count : -1].mean()
        drop[fill_count + 1, at] = lost[:, -1].mean()
    same = np.zeros(drop.shape)
    for a, fill in enumerate(fills):
        for b, other in enumerate(fills):
            same[a, b] = np.abs(_shown(query, judges[fill][0]) - _shown(query, judges[other][0])).mean() < SAME
    found.add(drop=drop, same=same)


def report(photographs: Photographs, found: FillMeasurements) -> str:
    """The Markdown section on fills."""
    fills, drop, agree, queries = found.fills, found["drop"], found["maps_agree"], len(found["base"])
    judges, every = (*fills, "another photo"), range(len(fills))
    of_maps = [
        ["peak in the border, %", *(_percent(found["described"][:, f, 0]) for f in every)],
        ["peak in the background, %", *(_percent(found["described"][:, f, 1]) for f in every)],
        ["border share, %", *(_percent(found["described"][:, f, 2]) for f in every)],
        ["background share, %", *(_percent(found["described"][:, f, 3]) for f in every)],
        ["deviation of the similarity over masks", *(mean(found["described"][:, f, 4]).text() for f in every)],
        ["correlation of two halves of the masks", *(mean(found["halves"][:, f]).text(2) for f in every)],
        ["masked query to the nearest photo, cosine", *(mean(found["natural"][:, f]).text() for f in every)],
        ["hidden query to the nearest photo, cosine", *(mean(found["hidden"][:, f]).text() for f in every)],
    ]
    correlations = [
        [fill, *("" if f == other else mean(agree[:, f, other]).text(2) for other in every)]
        for f, fill in enumerate(fills)
    ]
    drops = [
        [of, *(mean(drop[:, a, b]).text() for b in range(len(judges)))]
        for a, of in enumerate((*fills, "random region", "centre"))
    ]
    border = 100 * found["border_area"].mean()
    what = f"""{queries} queries × {len(photographs.queries[0].references)} references, {photographs.masks} masks;
        intervals are bootstraps over queries. The similarity of query and reference is {mean(found["base"]).text()}, a
        query's cosine to the nearest other photograph {mean(found["itself"]).text()}. The border is
        {border:.0f} % of the area, the background {_percent(found["background_area"])} %. "mean" is
        {_colour(photographs)}, the colour that the network sees as zero."""
    hiding = f"""By how much the similarity drops when the {100 * SHARE:.0f} % of the pixels that a map ranks highest
        are hidden. A row is whose map, a column what hides, the judge; each map does well before its own. "Centre"
        hides the pixels nearest to the image's centre, where products are."""
    duels = f"""Two fills' maps before a judge that is neither (it differs from both by at least {SAME:.0f} grey levels
        on most images): difference of the drops, above 0 where the first map finds what matters more."""
    return f"""## Which fill

{paragraph(what)}

{markdown_table(["maps under the fill", *fills], of_maps)}

Correlation of the maps under two fills, same masks:

{markdown_table(["", *fills], correlations)}

{paragraph(hiding)}

{markdown_table(["map of", *(f"by {judge}" for judge in judges)], drops)}

{paragraph(duels)}

{markdown_table(["judge", "maps of", "difference (95 % interval)"], _duels(found))}
"""


def _duels(found: FillMeasurements) -> list[list[str]]:
    """Every two fills before every judge that shows something else; of fills with all but equal maps only the first."""
    drop, same, agree = found["drop"], found["same"].mean(axis=0), found["maps_agree"].mean(axis=0)
    unlike = [f for f in range(len(found.fills)) if all(agree[f, other] < 0.99 for other in range(f))]
    judges = {b: found.fills[b] for b in unlike} | {len(found.fills): "another photo"}
    rows = []
    for b, judge in judges.items():
        fair = [f for f in unlike if same[f, b] < 0.5]
        for one, other in combinations(fair, 2):
            difference = mean(drop[:, one, b] - drop[:, other, b])
            rows.append([judge, f"{found.fills[one]} − {found.fills[other]}", difference.text()])
    return rows


def _without_top(saliency: Float64) -> Float32:
    """A mask [H, W] that hides the ``SHARE`` of the pixels with the highest values."""
    mask = np.ones(saliency.size, np.float32)
    mask[np.argsort(-saliency.ravel(), kind="stable")[: round(SHARE * saliency.size)]] = 0
    return mask.reshape(saliency.shape)


def _shown(query: Query, fill: Float32) -> Float32:
    return np.broadcast_to(fill, (1, *query.image.pixels.shape))


def _correlation(one: Float64, other: Float64) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _percent(values: Float64) -> str:
    return mean(values).text(1, 100)


def _colour(photographs: Photographs) -> str:
    return "#" + "".join(f"{round(value):02x}" for value in photographs.models.bundle.fill_mean)
