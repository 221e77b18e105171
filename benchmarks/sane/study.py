"""The steps of SANE's two studies, as commands: real photographs, and drawn garments whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.support.steps import Step
from transforms.core.attributes.ranking import Phi
from transforms.core.statistics.calibration import Kind

RECORD = Path("docs/benchmarks/sane-search.json")
"""What the search found: the supervision's settings, and phi and scale of every explainer."""


@dataclass(frozen=True)
class Supervision:
    """How the activation maps are supervised. A ``weight`` of 0 is no supervision."""

    weight: float
    temperature: float | None = None
    attribute_loss: str = "bce"

    @property
    def name(self) -> str:
        """Such as ``bce-0.1-t1``."""
        of_maps = "" if self.temperature is None else f"-t{self.temperature:g}"
        return f"{self.attribute_loss}-{self.weight:g}{of_maps if self.weight else ''}"

    def arguments(self, tables: tuple[Path, ...]) -> tuple[str, ...]:
        """Of ``whymatch train attributes``."""
        given = ["--attribute-loss", self.attribute_loss]
        if self.weight:
            given += [text for folder in tables for text in ("--saliency", str(folder))]
            given += ["--saliency-weight", f"{self.weight:g}"]
            if self.temperature is not None:
                given += ["--saliency-temperature", f"{self.temperature:g}"]
        return tuple(given)


UNSUPERVISED = Supervision(0.0)

UNIFORM = 1e9
"""A temperature at which every map is flat, whatever it marks."""
SEARCHED = (
    UNSUPERVISED,
    Supervision(5e-3),
    Supervision(0.05),
    Supervision(0.1, 1.0),
    Supervision(1.0, 1.0),
    Supervision(5e-3, UNIFORM),
    Supervision(0.0, attribute_loss="smooth-l1"),
    Supervision(5e-3, attribute_loss="smooth-l1"),
)
"""What the search tries: maps as the paper's code takes them, with its weight and ten times that; maps that are not
flat; and, to compare with, maps that say nothing."""


@dataclass(frozen=True)
class Real:
    """The study on photographs.

    Attributes:
      catalogue: its table; ``columns`` are the attribute columns, ``similar_by`` those that make products similar.
      out: the folder for all that is made.
      network, similarity, attributes: arguments of both trainings and of each.
      factory: the backbone's code.
      seeds: of the attribute networks and of the random concepts. The similarity network is what is explained: one.
      positives, train_masks: references a training query, and masks behind its maps.
      references, masks: the same of the pairs that explanations are judged on.
      workers: processes of an audit.
      max_distance: in how many columns a product that stands for a query without an attribute may differ besides.
    """

    catalogue: Path
    out: Path
    columns: str = "article_type,base_colour,gender,usage"
    similar_by: str = "article_type,base_colour"
    network: tuple[str, ...] = (
        "--backbone",
        "benchmarks.support.efficientnet_lite:efficientnet_lite0",
        "--size",
        "112x112",
    )
    similarity: tuple[str, ...] = ("--epochs", "7", "--threads", "2")
    attributes: tuple[str, ...] = ("--min-count", "20", "--epochs", "7")
    recipe: tuple[str, ...] = (
        *("--patience", "3", "--learning-rate", "1e-3"),
        *("--trunk-rate", "0.3", "--frozen", "0.35"),
    )
    factory: str = "benchmarks.support.efficientnet_lite:efficientnet_lite0"
    seeds: tuple[int, ...] = (0, 1, 2)
    positives: int = 20
    train_masks: int = 128
    references: int = 8
    masks: int = 256
    workers: int = 2
    max_distance: int = 0

    def _catalogue(self) -> tuple[str, str]:
        return "--catalogue", str(self.catalogue)

    @property
    def train_similarity(self) -> Step:
        """The network that is explained."""
        out = self.out / "similarity"
        given = ("--similar-by", self.similar_by, *self.network, *self.similarity, *self.recipe)
        arguments = ("train", "similarity", *self._catalogue(), "--out", str(out), *given)
        return Step("similarity", arguments, out, resumes=True, reads=(self.catalogue,))

    @property
    def export_similarity(self) -> Step:
        """Its bundle, for maps only."""
        out = self.out / "maps-bundle"
        checkpoint = str(self.out / "similarity" / "similarity.pt")
        arguments = (
            "export",
            "--similarity",
            checkpoint,
            "--no-gradient",
            "--factory",
            self.factory,
            "--out",
            str(out),
        )
        return Step("maps-bundle", arguments, out, (self.train_similarity,))

    def pairs(self, split: str) -> Step:
        """Positives of the train split, recommendations of the others."""
        out = self.out / f"{split}.csv"
        top = self.positives if split == "train" else self.references
        among = ("--similar-by", self.similar_by) if split == "train" else ()
        given = ("--bundle", str(self.out / "maps-bundle"), "--split", split, "--top-k", str(top), *among)
        arguments = ("pairs", *self._catalogue(), *given, "--out", str(out), "--threads", "2")
        return Step(f"pairs-{split}", arguments, out, (self.export_similarity,))

    def audit(self, split: str) -> Step:
        """Their saliency maps."""
        out = self.out / f"{split}-maps"
        masks = self.train_masks if split == "train" else self.masks
        given = ("--manifest", str(self.out / f"{split}.csv"), "--bundle", str(self.out / "maps-bundle"))
        workers = ("--workers", str(self.workers), "--threads", "1")
        run = ("--masks", str(masks), "--run-id", split, *workers, "--out", str(out))
        return Step(f"audit-{split}", ("audit", *given, *self._catalogue(), *run), out, (self.pairs(split),))

    def train_attributes(self, supervision: Supervision, seed: int) -> Step:
        """An attribute network. One thread each: two of them side by side are quicker than one of two threads."""
        out = self.out / "attributes" / f"{supervision.name}-{seed}"
        given = (*self.network, "--columns", self.columns, *self.attributes, *self.recipe, "--seed", str(seed))
        arguments = ("train", "attributes", *self._catalogue(), "--out", str(out), *given, "--threads", "1")
        after = (self.audit("train"),) if supervision.weight else ()
        given = (*arguments, *supervision.arguments((self.out / "train-maps",)))
        name = f"attributes-{supervision.name}-{seed}"
        return Step(name, given, out, after, resumes=True, reads=(self.catalogue,))

    def export(self, supervision: Supervision, seed: int) -> Step:
        """The bundle of the similarity network with one attribute network."""
        out = self.out / "bundles" / f"{supervision.name}-{seed}"
        checkpoint = self.out / "attributes" / f"{supervision.name}-{seed}" / "attributes.pt"
        given = ("--similarity", str(self.out / "similarity" / "similarity.pt"), "--attributes", str(checkpoint))
        arguments = ("export", *given, "--no-gradient", "--factory", self.factory, "--out", str(out))
        after = (self.train_similarity, self.train_attributes(supervision, seed))
        return Step(f"bundle-{supervision.name}-{seed}", arguments, out, after)

    def priors(self, supervision: Supervision, seed: int, among: str) -> Step:
        """The priors of the similarity network, in a copy of that bundle."""
        made = self.export(supervision, seed)
        out = self.out / "bundles" / f"{supervision.name}-{seed}-{among}"
        given = ("--bundle", str(out), *self._catalogue(), "--among", among, "--seed", str(seed))
        name = f"priors-{supervision.name}-{seed}-{among}"
        return Step(name, ("priors", *given, "--threads", "1"), out, (made,), begins_as=made.makes)


@dataclass(frozen=True)
class Choice:
    """How an explainer ranks: phi, the kind of scale, and which held-out pairs its prior is of."""

    phi: Phi
    scale: Kind
    among: str = "having"


@dataclass(frozen=True)
class Tried:
    """What the search tried, and what came out on the validation split: ``map`` of the attributes, and ``removal`` of
    SANE and of confidence with map match alone, each with the phi that is best for it."""

    supervision: Supervision
    among: str
    map: float
    confidence_and_match: float
    sane: float
    sane_top1: float
    phi: Phi
    scale: Kind


@dataclass(frozen=True)
class Record:
    """The committed record of the search."""

    supervision: Supervision
    choices: Mapping[str, Choice]
    tried: tuple[Tried, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Record:
        """From the file ``path``."""
        content = json.loads(path.read_text(encoding="utf-8"))
        choices = {
            name: Choice(tuple(one["phi"]), one["scale"], one["among"]) for name, one in content["choices"].items()
        }
        tried = tuple(
            Tried(**{**one, "supervision": Supervision(**one["supervision"]), "phi": tuple(one["phi"])})
            for one in content["tried"]
        )
        return cls(Supervision(**content["supervision"]), choices, tried)

    def write(self, path: Path) -> None:
        """Into the file ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Garments:
    """The study on drawn garments: one similarity network for each column, and attribute networks of all columns.

    Attributes:
      out: the folder for all that is made.
      columns: the known attributes.
      products: garments drawn.
      epochs: of the similarity and of the attribute networks.
      seeds: of the attribute networks.
      references, masks: of all pairs.
      attributes, of_priors: further arguments of the attribute networks' training and of the priors.
      max_distance: in how many columns a product that stands for a query without an attribute may differ besides: a
        few hundred garments of five columns have no three that differ in one alone.
    """

    out: Path
    columns: tuple[str, ...] = ("category", "colour", "pattern", "sleeve", "neckline")
    products: int = 600
    epochs: tuple[int, int] = (20, 40)
    seeds: tuple[int, ...] = (0, 1, 2)
    references: int = 8
    masks: int = 128
    max_distance: int = 2
    attributes: tuple[str, ...] = ()
    of_priors: tuple[str, ...] = ()
    network: tuple[str, ...] = (
        *("--backbone", "export.training.networks.small_network:network", "--size", "96x72"),
        *("--learning-rate", "3e-3"),
    )

    @property
    def catalogue(self) -> Path:
        """The drawn catalogue's folder."""
        return self.out / "catalogue"

    def _catalogue(self) -> tuple[str, str]:
        return "--catalogue", str(self.catalogue / "catalogue.csv")

    @property
    def draw(self) -> Step:
        """The garments."""
        return Step("draw", ("demo", str(self.catalogue), "--products", str(self.products)), self.catalogue)

    def train_similarity(self, column: str) -> Step:
        """The network that knows one attribute."""
        out = self.out / "similarity" / column
        given = ("--similar-by", column, "--embedding", "64", "--epochs", str(self.epochs[0]), "--threads", "1")
        arguments = ("train", "similarity", *self._catalogue(), "--out", str(out), *self.network, *given)
        return Step(f"similarity-{column}", arguments, out, (self.draw,), True)

    def export_similarity(self, column: str) -> Step:
        """Its bundle, for maps only."""
        out = self.out / "maps-bundles" / column
        checkpoint = str(self.out / "similarity" / column / "similarity.pt")
        arguments = ("export", "--similarity", checkpoint, "--no-gradient", "--out", str(out))
        return Step(f"maps-bundle-{column}", arguments, out, (self.train_similarity(column),))

    def pairs(self, column: str, split: str) -> Step:
        """Pairs that agree in ``column``, the most similar ones: positives to train with, the rest to judge by."""
        out = self.out / "pairs" / f"{column}-{split}.csv"
        given = ("--bundle", str(self.out / "maps-bundles" / column), "--split", split, "--similar-by", column)
        arguments = ("pairs", *self._catalogue(), *given, "--top-k", str(self.references), "--out", str(out))
        return Step(f"pairs-{column}-{split}", arguments, out, (self.export_similarity(column),))

    def audit(self, column: str, split: str) -> Step:
        """Their saliency maps."""
        out = self.out / "maps" / f"{column}-{split}"
        manifest, bundle = self.out / "pairs" / f"{column}-{split}.csv", self.out / "maps-bundles" / column
        given = ("--manifest", str(manifest), "--bundle", str(bundle), *self._catalogue(), "--masks", str(self.masks))
        arguments = ("audit", *given, "--run-id", column, "--threads", "1", "--out", str(out))
        return Step(f"audit-{column}-{split}", arguments, out, (self.pairs(column, split),))

    def train_attributes(self, supervision: Supervision, seed: int) -> Step:
        """An attribute network, supervised by the maps of all the similarity networks."""
        out = self.out / "attributes" / f"{supervision.name}-{seed}"
        given = (*self.network, "--columns", ",".join(self.columns), "--epochs", str(self.epochs[1]))
        given = (*given, *self.attributes)
        arguments = ("train", "attributes", *self._catalogue(), "--out", str(out), *given, "--seed", str(seed))
        audits = tuple(self.audit(column, "train") for column in self.columns) if supervision.weight else (self.draw,)
        tables = tuple(self.out / "maps" / f"{column}-train" for column in self.columns)
        name = f"attributes-{supervision.name}-{seed}"
        return Step(name, (*arguments, "--threads", "1", *supervision.arguments(tables)), out, audits, True)

    def export(self, column: str, supervision: Supervision, seed: int) -> Step:
        """The bundle of one similarity network with one attribute network."""
        out = self.out / "bundles" / f"{column}-{supervision.name}-{seed}"
        similarity = self.out / "similarity" / column / "similarity.pt"
        attributes = self.out / "attributes" / f"{supervision.name}-{seed}" / "attributes.pt"
        given = ("--similarity", str(similarity), "--attributes", str(attributes), "--no-gradient")
        after = (self.train_similarity(column), self.train_attributes(supervision, seed))
        return Step(f"bundle-{out.name}", ("export", *given, "--out", str(out)), out, after)

    def priors(self, column: str, supervision: Supervision, seed: int) -> Step:
        """The priors of one similarity network, of pairs whose query has the attribute."""
        made, pairs = self.export(column, supervision, seed), self.pairs(column, "valid")
        out = made.makes.with_name(f"{made.makes.name}-priors")
        given = ("--bundle", str(out), *self._catalogue(), "--pairs", str(pairs.makes), "--among", "having")
        arguments = ("priors", *given, "--seed", str(seed), "--threads", "1", *self.of_priors)
        return Step(out.name, arguments, out, (made, pairs), begins_as=made.makes)

    def calibrate(self, column: str, supervision: Supervision, seed: int) -> Step:
        """Phi and scales, on the validation pairs' maps."""
        made, audit = self.priors(column, supervision, seed), self.audit(column, "valid")
        out = self.export(column, supervision, seed).makes
        out = out.with_name(f"{out.name}-ranked")
        given = ("--bundle", str(out), *self._catalogue(), "--tables", str(audit.makes))
        arguments = ("calibrate", *given, "--max-distance", str(self.max_distance), "--threads", "1")
        return Step(out.name, arguments, out, (made, audit), begins_as=made.makes)
