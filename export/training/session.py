"""What both trainings do around their loop: find what is done, keep the state, leave a checkpoint and its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from export.training.data.dataset import TrainingDataset
from export.training.fitting.loop import fit
from export.training.fitting.reproducibility import machine
from export.training.fitting.state_file import StateFile, settings_digest
from export.training.fitting.task import Epoch, TrainingTask
from export.training.networks.backbones import Normalisation
from export.training.networks.checkpoint import Config
from export.training.record import Trained, describe, read_trained, write_trained
from export.training.settings import TrainingSettings
from transforms.core.messages import Echo


@dataclass(frozen=True)
class TrainingSession:
    """One training of a ``kind`` on a data set, from its settings to the files in ``settings.out``.

    ``own`` are the settings of the kind as a bundle will say them, JSON values only. ``state_file`` carries the digest
    of all that decides the weights, by which a state and a finished training are known again.
    """

    kind: Literal["similarity", "attributes"]
    settings: TrainingSettings
    dataset: TrainingDataset
    normalisation: Normalisation
    own: Mapping[str, Any]
    state_file: StateFile
    echo: Echo

    def finished(self) -> Trained | None:
        """The training of the same settings that lies in ``out``, where it is to be resumed and is done."""
        done = read_trained(self.settings.out, self.kind, self.state_file.settings) if self.settings.resume else None
        if done is not None:
            self.state_file.remove()
            self.echo(
                f"{done.checkpoint} is there already, trained with the same settings on the same data; its curve lies "
                f"in {done.record}"
            )
        return done

    def fit(self, task: TrainingTask) -> tuple[Epoch, ...]:
        """Trains the task's network in place and returns the curve (:func:`export.training.fitting.loop.fit`)."""
        return fit(task, self.dataset, self.normalisation, self.settings.recipe, self.echo, self.state_file)

    def leave(
        self,
        network: nn.Module,
        curve: Sequence[Epoch],
        figures: Mapping[str, Mapping[str, float]],
        outputs: Mapping[str, Any],
        extra: Mapping[str, Any],
    ) -> Trained:
        """Writes the checkpoint and its record, and forgets where the training stood.

        ``outputs`` are the fields of the checkpoint's config that say what the network puts out; ``extra`` is of the
        record only.
        """
        settings = self.settings
        training = describe(settings, self.own, figures, self.dataset)
        config = Config(self.kind, settings.backbone, settings.resize, self.normalisation, training=training, **outputs)
        extra = {**extra, "settings": self.state_file.settings}
        trained = write_trained(settings.out, config, network, curve, figures, extra, self.echo)
        self.state_file.remove()
        return trained


def open_session(
    kind: Literal["similarity", "attributes"],
    settings: TrainingSettings,
    dataset: TrainingDataset,
    normalisation: Normalisation,
    own: Mapping[str, Any],
    decisive: Mapping[str, Any],
    echo: Echo,
) -> TrainingSession:
    """The session of a training whose weights follow from ``decisive``, ``own``, the rest of the settings and the data.

    The threads that count are those that there are, not those that were asked for.
    """
    decides = {
        **own,
        **decisive,
        "backbone": settings.backbone,
        "weights": settings.weights,
        "resize": settings.resize,
        "normalisation": normalisation,
        "recipe": replace(settings.recipe, threads=0),
        "machine": machine(settings.recipe),
    }
    digest = settings_digest(decides, dataset)
    path = settings.out / f"{kind}.state.pt"
    state_file = StateFile(path, settings.resume, settings.checkpoint_seconds, digest)
    return TrainingSession(kind, settings, dataset, normalisation, own, state_file, echo)
