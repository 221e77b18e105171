"""A bundle with all four graphs, and every saliency method in settings that cost little."""

from __future__ import annotations

from pathlib import Path

from transforms.core.saliency.contract import Method
from transforms.core.saliency.decomposition import DecompositionMethod
from transforms.core.saliency.gradients import GradientMethod, IntegratedGradientsMethod
from transforms.core.saliency.lime import LimeMethod
from transforms.core.saliency.mask import MaskMethod
from transforms.core.saliency.rise import RiseMethod
from transforms.core.saliency.sbsm import SbsmMethod
from transforms.core.saliency.sliding_window import SlidingWindowMethod

SIZE = (24, 32)
QUICK: list[Method] = [
    RiseMethod(masks=40, cells=4),
    SlidingWindowMethod(window=8, stride=8),
    SbsmMethod(window=8, stride=8),
    LimeMethod(samples=40),
    MaskMethod(steps=5),
    GradientMethod(),
    IntegratedGradientsMethod(steps=5),
    DecompositionMethod(),
]
NAMES = [method.name for method in QUICK]
SETTINGS = [
    "rise.cells=4", "sliding_window.window=8", "sliding_window.stride=8", "sbsm.window=8", "sbsm.stride=8",
    "lime.samples=40", "mask.steps=5", "integrated_gradients.steps=5",
]  # fmt: skip
SET = [word for setting in SETTINGS for word in ("--set", setting)]
ALL = ["--method", ",".join(NAMES), *SET]


def complete_bundle(folder: Path) -> Path:
    """A bundle with all four graphs, exported from torch."""
    import torch  # here, so that tests that need no torch do not load it

    from export.bundling.from_torch import ExportRequest, export_command
    from export.training.networks.backbones import Normalisation
    from export.training.networks.checkpoint import Config, build_network, save
    from transforms.core.imaging.images import Resize

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    normalisation = Normalisation(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    for kind, more in (
        ("similarity", {"embedding": 12}),
        ("attributes", {"vocabulary": ("category=dress", "colour=red")}),
    ):
        factory = "export.training.networks.small_network:network"
        config = Config(kind, factory, Resize(SIZE, "squash"), normalisation, **more)  # type: ignore[arg-type]
        torch.manual_seed(len(kind))
        network = build_network(config).train()
        with torch.no_grad():
            network(torch.randn(8, 3, *SIZE) * 2 + 0.5)
        save(folder / f"{kind}.pt", config, network)
    torch.set_num_threads(threads)
    export_command(
        ExportRequest(folder / "similarity.pt", folder / "bundle", attributes=folder / "attributes.pt"),
        echo=lambda _: None,
    )
    return folder / "bundle"
