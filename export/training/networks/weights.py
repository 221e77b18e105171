"""Weights from files: state dicts of anybody's, read without running code from them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transforms.core.errors import MissingDependency, UsageError

# What training scripts wrap a state dict in, and what they put in front of its names.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "backbone.", "encoder.", "model.")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name, read without running code from it: ``weights_only`` or safetensors."""
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {str(path)!r}; give a file, 'default' or nothing")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise MissingDependency("reading .safetensors needs safetensors: pip install safetensors") from None
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise UsageError(f"{path} is no safetensors file: {error}") from None
    content = load_plain(path)
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UsageError(f"{path} holds no state dict: expected a mapping of names to tensors")
    return tensors


def load_plain(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors and plain values only; UsageError for anything else."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{path} cannot be read as a checkpoint of tensors and plain values ({reason[:200]}). "
            "Save a state dict: torch.save(model.state_dict(), path)."
        ) from None


def load_weights(trunk: nn.Module, path: Path, *, within: str, heads: Sequence[str]) -> None:
    """Loads a checkpoint into the trunk; UsageError where it does not fit.

    ``within`` is a prefix of the trunk's names that checkpoints do not have. Tensors of a head that was cut off, known
    by ``heads``, are ignored; everything else must have its place.
    """
    state = read_state(path)
    wanted = trunk.state_dict()
    inner = {name.removeprefix(within): name for name in wanted}
    found = max(
        (_renamed(state, prefix) for prefix in ("", *_PREFIXES)), key=lambda names: len(names.keys() & inner.keys())
    )
    missing = sorted(name for name in inner if name not in found and not name.endswith("num_batches_tracked"))
    if missing:
        raise UsageError(
            f"{path} does not fit the backbone: {len(missing)} of its {len(inner)} tensors are missing, the first is "
            f"{missing[0]!r}; the checkpoint begins with {min(state)!r}. Name the architecture it was saved from."
        )
    for name, tensor in found.items():
        if name in inner and tensor.shape != wanted[inner[name]].shape:
            raise UsageError(
                f"{path} does not fit the backbone: {name!r} has shape {list(tensor.shape)}, "
                f"expected {list(wanted[inner[name]].shape)}"
            )
    children = {name.split(".")[0] for name in inner}
    unused = sorted(n for n in found if n not in inner and n.split(".")[0] in children and not _is_head(n, heads))
    if unused:
        raise UsageError(
            f"{path} holds {len(unused)} tensors that the backbone has no place for, the first is {unused[0]!r}"
        )
    trunk.load_state_dict({inner[name]: tensor for name, tensor in found.items() if name in inner}, strict=False)


def _renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _is_head(name: str, heads: Sequence[str]) -> bool:
    return any(part in heads or part.startswith(("_fc", "fc", "classifier", "head")) for part in name.split("."))
