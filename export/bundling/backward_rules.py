"""The gradients of operations spelled out in operations that ONNX has (``export.bundling.gradient``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What is spelled out in operations that ONNX has; a user of the table sees the last entry for an operation."""
    return {
        **torch._decomp.core_aten_decompositions(),
        _aten.convolution_backward.default: _convolution_backward,
        _aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
        _aten.avg_pool2d_backward.default: _average_pool_backward,
        _aten.empty_permuted.default: _empty,
        _aten.threshold_backward.default: _threshold_backward,
        _aten.hardtanh_backward.default: _hardtanh_backward,
        _aten.select_backward.default: _select_backward,
        _aten.slice_backward.default: _slice_backward,
    }


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Sequence[int] | None, *settings: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradient in ``x`` alone: weights are constants. ``settings`` end in which gradients are wanted."""
    *rest, wanted = settings
    return _Convolution(weight, *rest).backward(gradient, x) if wanted[0] else None, None, None


@dataclass(frozen=True, eq=False)
class _Convolution:
    """A convolution by ``weight`` as ATen has it: the arguments of ``aten.convolution``, in their order."""

    weight: Tensor
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int

    def backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient in ``x`` of what has ``gradient``.

        A convolution's is a transposed convolution, which at stride 1 is a convolution by the mirrored kernel. ONNX
        Runtime's convolutions are several times faster than its transposed ones, most of all with groups.
        """
        if self.transposed:
            return self._apply(gradient, self.weight, self.padding)
        reach = [by * (side - 1) for by, side in zip(self.dilation, self.weight.shape[2:], strict=True)]
        around = [far - pad for far, pad in zip(reach, self.padding, strict=True)]
        if all(step == 1 for step in self.stride) and all(pad >= 0 for pad in around):
            return self._apply(gradient, self._mirrored(), around)
        left_over = [
            x.shape[2 + axis]
            - ((gradient.shape[2 + axis] - 1) * self.stride[axis] - 2 * self.padding[axis] + reach[axis] + 1)
            for axis in range(len(self.stride))
        ]
        spread: Tensor = _aten.convolution(
            gradient, self.weight, None, self.stride, self.padding, self.dilation, True, left_over, self.groups
        )
        return spread

    def _apply(self, gradient: Tensor, kernel: Tensor, padding: Sequence[int]) -> Tensor:
        nothing = [0] * len(self.stride)
        plain: Tensor = _aten.convolution(
            gradient, kernel, None, self.stride, padding, self.dilation, False, nothing, self.groups
        )
        return plain

    def _mirrored(self) -> Tensor:
        """The kernel [G*I,O,...] of the gradient: turned within each of the groups, and mirrored."""
        weight, sides = self.weight, self.weight.shape[2:]
        per_group, channels = weight.shape[0] // self.groups, weight.shape[1]
        if any(side > 1 for side in sides):
            weight = weight.flip([2 + axis for axis in range(len(sides))])
        turned = weight.reshape(self.groups, per_group, channels, *sides).transpose(1, 2)
        return turned.reshape(self.groups * channels, per_group, *sides)


def _max_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Each window's gradient goes to the pixel that was its largest; ``indices`` count within a plane."""
    plane = torch.zeros_like(x).flatten(-2)
    return plane.scatter_add(-1, indices.flatten(-2), gradient.flatten(-2)).reshape(x.shape)


def _average_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_padding: bool,
    divisor: int | None,
) -> Tensor:
    """Each window's gradient, divided by the window's size, goes to all of its pixels: a transposed convolution."""
    stride = stride or kernel
    sizes = []  # of the windows, along each axis
    for side, width, step, pad, count in zip(x.shape[2:], kernel, stride, padding, gradient.shape[2:], strict=True):
        ends = [(at * step - pad, min(at * step - pad + width, side + pad)) for at in range(count)]
        sizes.append([end - start if count_padding else min(end, side) - max(start, 0) for start, end in ends])
    areas = [[float(divisor or height * width) for width in sizes[1]] for height in sizes[0]]
    shares = gradient / torch.tensor(areas, dtype=gradient.dtype)
    channels = x.shape[1]
    ones = torch.ones((channels, 1, *kernel), dtype=gradient.dtype)
    spread = _aten.convolution(shares, ones, None, stride, [0, 0], [1, 1], True, [0, 0], channels)
    pads: list[int] = []
    for axis in (1, 0):
        pads += [-padding[axis], x.shape[2 + axis] + padding[axis] - spread.shape[2 + axis]]
    return _constant_pad(spread, pads)


def _empty(size: Sequence[int], order: Sequence[int], dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """What is written over at once; ONNX has no memory that is not set, nor an order of dimensions in it."""
    return torch.zeros(size, dtype=dtype)


def _threshold_backward(gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
    """By a product: ONNX Runtime's Where took a quarter of EfficientNet-Lite0's gradient, its product takes a tenth."""
    return gradient * (x > threshold).to(gradient.dtype)


def _hardtanh_backward(gradient: Tensor, x: Tensor, least: float, most: float) -> Tensor:
    return gradient * ((x > least) & (x < most)).to(gradient.dtype)


def _select_backward(gradient: Tensor, sizes: Sequence[int], dim: int, index: int) -> Tensor:
    dim, index = dim % len(sizes), index % sizes[dim]
    return _placed(gradient.unsqueeze(dim), sizes, dim, index)


def _slice_backward(gradient: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Tensor:
    if step != 1:
        scattered: Tensor = _aten.slice_scatter(gradient.new_zeros(sizes), gradient, dim, start, end, step)
        return scattered
    dim = dim % len(sizes)
    start = min(start + sizes[dim] if start < 0 else start, sizes[dim])
    return _placed(gradient, sizes, dim, start)


def _placed(gradient: Tensor, sizes: Sequence[int], dim: int, start: int) -> Tensor:
    """``gradient`` with zeros before and behind it along ``dim``."""
    pads = [0, 0] * (len(sizes) - dim - 1) + [start, sizes[dim] - start - gradient.shape[dim]]
    return _constant_pad(gradient, pads)


def _constant_pad(values: Tensor, pads: Sequence[int]) -> Tensor:
    """Zeros around ``values``, or less of them where a number is negative; pairs from the last dimension on."""
    padded: Tensor = _aten.constant_pad_nd(values, pads, 0.0)
    return padded
