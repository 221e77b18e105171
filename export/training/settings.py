"""What a training is told: its recipe, and the settings of either network, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from export.training.data.augmentation import Augmentation
from export.training.losses import Mining, check_mining
from export.training.networks.backbones import Normalisation
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.imaging.images import Resize

AttributeLoss = Literal["bce", "smooth-l1"]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    ``learning_rate`` is AdamW's peak: it rises over the first twentieth of the steps and falls to zero along a cosine.
    ``trunk_rate`` multiplies it for the backbone. ``frozen`` is the share of the backbone's layers, counted from the
    input, that keep their weights and batch statistics: 0 trains all; a ``trunk_rate`` of 0 freezes all. Early layers
    are the slow ones and change least. ``patience`` is the number of epochs without a better validation after which
    training stops. ``threads`` 0 takes all cores; the result is the same to the bit for the same seed, threads and
    machine.
    """

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 1e-3
    trunk_rate: float = 1.0
    frozen: float = 0.0
    weight_decay: float = 1e-4
    patience: int = 10
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 2), ("patience", 1), ("threads", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is at least {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not self.trunk_rate >= 0 or not self.weight_decay >= 0:
            raise UsageError(
                f"learning rate > 0, trunk rate >= 0 and weight decay >= 0 are needed; got {self.learning_rate}, "
                f"{self.trunk_rate} and {self.weight_decay}"
            )
        if not 0 <= self.frozen <= 1:
            raise UsageError(f"frozen is a share of the backbone's layers in [0, 1], got {self.frozen}")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What both trainings are told.

    ``catalogue`` is an address, ``out`` the folder for the checkpoint and its record. ``backbone`` and ``weights`` are
    what ``networks.backbones.backbone`` takes; ``resize`` makes the input frame, and ``normalisation`` defaults to what
    the backbone says of its input. ``access`` says what image addresses may name; None: files under the catalogue's
    folder and object storage.

    Where the training stands is kept in ``out`` every ``checkpoint_seconds``; ``resume`` goes on from there, and takes
    a training of the same settings as it is where it is done.
    """

    catalogue: str
    out: Path
    backbone: str
    resize: Resize
    weights: str | None = None
    normalisation: Normalisation | None = None
    recipe: Recipe = field(default_factory=Recipe)
    access: storage.Access | None = None
    resume: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        seconds = self.checkpoint_seconds
        if not (math.isfinite(seconds) and seconds >= 0):
            raise UsageError(f"--checkpoint-seconds is a finite number of at least 0, not {seconds}")


@dataclass(frozen=True, kw_only=True)
class SimilarityTraining(TrainingSettings):
    """An embedding network in which products that agree in all columns of ``similar_by`` lie close.

    ``embedding`` is D, the length of an embedding. Triplets have ``margin``, in cosine distance, and are found in a
    batch by ``mining`` (``export.training.losses``); a batch holds groups of ``per_label`` images or more of a label.

    ``conditions`` names a column of types: products of any two types are then compared, trained and validated under a
    mask of their own (``export.training.conditions``) where ``min_pairs`` of their training products share a label.
    """

    similar_by: tuple[str, ...]
    conditions: str | None = None
    min_pairs: int = 1
    embedding: int = 128
    margin: float = 0.2
    mining: Mining = "semi-hard"
    per_label: int = 4

    def __post_init__(self) -> None:
        if self.embedding < 1 or self.per_label < 2 or not self.margin > 0:
            raise UsageError(
                f"embedding >= 1, per_label >= 2, margin > 0; got {self.embedding}, {self.per_label}, {self.margin}"
            )
        if self.min_pairs < 1:
            raise UsageError(f"--min-pairs must be at least 1, not {self.min_pairs}")
        super().__post_init__()
        check_mining(self.mining)


@dataclass(frozen=True)
class SaliencySupervision:
    """What supervises an attribute network beside its attributes.

    ``tables`` are folders of audits over training pairs, ``weight`` is lambda in L = L_att + lambda * L_hm,
    ``temperature`` as in ``export.training.supervision``, ``limit`` as in ``export.training.data.saliency_maps``.
    """

    tables: tuple[str, ...]
    weight: float = 5e-3
    temperature: float | None = None
    limit: int = 20

    def __post_init__(self) -> None:
        if not self.tables:
            raise UsageError("saliency supervision needs the folder of an audit's tables")
        if not (math.isfinite(self.weight) and self.weight >= 0) or self.limit < 1:
            raise UsageError(f"a saliency weight >= 0 and a limit >= 1 are needed; got {self.weight} and {self.limit}")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"a saliency temperature is above 0, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class AttributeTraining(TrainingSettings):
    """An attribute network for the values of ``columns`` (None: all) that ``min_count`` training images have.

    ``attribute_loss`` is "bce", binary cross-entropy, for which a score is the probability of its attribute, or
    "smooth-l1", which compares the softmax over all attributes with uniform mass over the image's own, as in SANE's
    code. ``positive_weight`` limits how far rare attributes are weighed up in "bce"; 1 keeps the scores calibrated.
    ``saliency`` adds the distance of activation maps from saliency maps.
    """

    columns: tuple[str, ...] | None = None
    min_count: int = 20
    attribute_loss: AttributeLoss = "bce"
    positive_weight: float = 1.0
    saliency: SaliencySupervision | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attribute_loss not in (losses := get_args(AttributeLoss)):
            raise UsageError(f"there is no attribute loss {self.attribute_loss!r}; take one of {', '.join(losses)}")
