"""Does whymatch find a planted shortcut? The badge of the drawn catalogue, for a network that uses it and one that does
not.

    python -m benchmarks.saliency.shortcut CATALOGUE_FOLDER BUNDLE [BUNDLE ...]

For pairs of one brand, the badge's, the saliency maps of several mask seeds are compared with where the badge was
drawn. Beside them stands a check without saliency: is hiding the badge what lowers the similarity most, of all equal
boxes?
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.demo import Box, badge_boxes, hide
from pipeline.demo.products import BADGE_BRAND
from transforms.core.imaging.fill import border_color, make_fill
from transforms.core.imaging.images import ImageLimits
from transforms.core.metrics.regions import peak, pixel_auc
from transforms.core.records import Float64, Product
from transforms.core.saliency.rise import RiseMethod
from transforms.core.similarity import similarities
from transforms.inputs import catalogue
from transforms.serving.load_image import ImageLoader, LoadedImage
from transforms.serving.models import Models, Serving
from transforms.storage import Access

CELLS = 8


@dataclass(frozen=True)
class Finding:
    """What one bundle's maps say of the badge, one entry a pair; ``near`` and ``auc`` are [seeds, pairs].

    ``maps`` float64 [pairs, H, W] are those of the first seed.
    """

    near: NDArray[np.bool_]
    auc: Float64
    drop_badge: Float64
    maps: Float64
    drop_elsewhere: Float64  # of the box elsewhere that lowers the similarity most, [pairs]


def near_badge(pixel: tuple[int, int], box: Box, size: tuple[int, int]) -> bool:
    """Whether the centre of ``pixel`` lies within half a cell of ``box`` (top, left, height, width)."""
    top, left, height, width = box
    reach = (size[0] / CELLS / 2, size[1] / CELLS / 2)
    row, column = pixel[0] + 0.5, pixel[1] + 0.5
    return top - reach[0] <= row <= top + height + reach[0] and left - reach[1] <= column <= left + width + reach[1]


def in_frame(box: Box, loaded: LoadedImage) -> Box:
    """``box`` of original pixels in the model's frame, rounded to whole pixels outwards."""
    top0, left0, height0, width0 = loaded.frame.box
    scale_y, scale_x = loaded.frame.size[0] / height0, loaded.frame.size[1] / width0
    top, left = int((box[0] - top0) * scale_y), int((box[1] - left0) * scale_x)
    bottom = int(np.ceil((box[0] + box[2] - top0) * scale_y))
    right = int(np.ceil((box[1] + box[3] - left0) * scale_x))
    return top, left, bottom - top, right - left


def brand_pairs(folder: Path, queries: int, references: int, seed: int) -> list[tuple[Product, list[Product]]]:
    """Queries of the badge's brand in the test split, each with other products of that brand."""
    products = [item for item in catalogue.read(str(folder / "catalogue.csv")) if isinstance(item, Product)]
    branded = [one for one in products if one.split == "test" and ("brand", BADGE_BRAND) in one.attributes]
    rng = np.random.default_rng(seed)
    chosen = []
    for query in branded[:queries]:
        others = [one for one in branded if one.id != query.id]
        chosen.append((query, [others[at] for at in rng.choice(len(others), references, replace=False)]))
    return chosen


def look(folder: Path, bundle: str, seeds: Sequence[int], *, masks: int, queries: int, references: int) -> Finding:
    """Explains the brand's pairs with ``bundle`` under every seed and compares the maps with the badges."""
    models = Models(Serving(bundle, "cpu", threads=2))
    load = ImageLoader(Access(roots=(str(folder),)), ImageLimits(), models.bundle.resize)
    boxes = badge_boxes(folder)
    near, auc, badge, elsewhere, first_maps = [], [], [], [], []
    for query, others in brand_pairs(folder, queries, references, seed=0):
        image = load(query.image)
        box = in_frame(boxes[query.id], image)
        embedded = models.similarity.embed(np.stack([load(other.image).pixels for other in others]))
        base = similarities(embedded, models.similarity.embed(image.pixels[None]), "cosine")[:, 0]
        inside = np.zeros(image.frame.size, bool)
        inside[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
        fill = make_fill("auto", image.pixels, models.bundle.fill_mean)
        near_rows, auc_rows = [], []
        for seed in seeds:
            design = models.design(RiseMethod(masks=masks, seed=seed), image.sha256)
            perturbed = models.similarity.perturbed(image.pixels, models.bank_of(design), fill)
            maps = design.estimate(similarities(embedded, perturbed, "cosine"), base)
            near_rows.append([near_badge(peak(one), box, image.frame.size) for one in maps])
            auc_rows.append([pixel_auc(one, inside) for one in maps])
            if seed == seeds[0]:
                first_maps.append(maps)
        near.append(near_rows)
        auc.append(auc_rows)
        first, rest = hiding(image, box, models, embedded, base)
        badge.append(first)
        elsewhere.append(rest)
    return Finding(
        near=np.concatenate(near, axis=1),
        auc=np.concatenate(auc, axis=1),
        maps=np.concatenate(first_maps),
        drop_badge=np.concatenate(badge),
        drop_elsewhere=np.concatenate(elsewhere),
    )


def hiding(
    image: LoadedImage, box: Box, models: Models, references: NDArray[np.float32], base: Float64
) -> tuple[Float64, Float64]:
    """How much hiding the badge lowers each similarity [R], and the most that an equal box apart from it does [R]."""
    top, left, height, width = box
    size = image.frame.size
    color = tuple(int(value) for value in border_color(image.pixels))
    step = max(1, height // 3)
    apart = [
        (y, x, height, width)
        for y in range(0, size[0] - height + 1, step)
        for x in range(0, size[1] - width + 1, step)
        if abs(y - top) >= height or abs(x - left) >= width
    ]
    hidden = np.stack([hide(image.pixels, one, (color[0], color[1], color[2])) for one in [box, *apart]])
    drops = base[:, None] - similarities(references, models.similarity.embed(hidden), "cosine")
    return drops[:, 0], drops[:, 1:].max(axis=1)


def main() -> None:
    """Prints one row a bundle."""
    parser = argparse.ArgumentParser(description="Look for the demo catalogue's planted shortcut.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--masks", type=int, default=RiseMethod.masks)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--references", type=int, default=4)
    options = parser.parse_args()
    columns = (
        "bundle",
        "pairs",
        "peak near the badge, each seed",
        "median AUC",
        "hiding the badge hurts most",
        "median drop",
    )
    print(f"| {' | '.join(columns)}: badge / worst elsewhere |")
    print("| --- | --- | --- | --- | --- | --- |")
    for bundle in options.bundles:
        found = look(
            options.folder,
            bundle,
            range(options.seeds),
            masks=options.masks,
            queries=options.queries,
            references=options.references,
        )
        seeds = ", ".join(f"{share:.1%}" for share in found.near.mean(axis=1))
        print(
            f"| {Path(bundle).name} | {found.near.shape[1]} | {seeds} | {np.median(found.auc):.3f} | "
            f"{(found.drop_badge > found.drop_elsewhere).mean():.1%} | "
            f"{np.median(found.drop_badge):.3f} / {np.median(found.drop_elsewhere):.3f} |"
        )


if __name__ == "__main__":
    main()
