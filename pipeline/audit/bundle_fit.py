"""Whether an audit's options go with a bundle, and with the memory that a worker may have."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.audit.options import AuditOptions
from transforms.core import memory
from transforms.core.errors import UsageError
from transforms.core.memory import CHUNK
from transforms.core.saliency.explainer import Explainer
from transforms.core.saliency.mask import PAIRS
from transforms.explaining.check_explainer import check_explainer
from transforms.serving.bundle import Bundle


def check_bundle(options: AuditOptions, bundle: Bundle) -> None:
    """UsageError where a method asks for what the bundle does not have, or cannot do what the options ask with it."""
    for explainer in options.explainers():
        check_explainer(explainer, bundle)


def plan_memory(
    options: AuditOptions, bundle: Bundle, device: Literal["cpu", "cuda"]
) -> tuple[memory.MemoryPlan, bool]:
    """The memory that one worker needs, and whether it may keep its mask banks; UsageError where it cannot fit."""
    explainers = options.explainers()
    for hold in (True, False):
        planned = _planned(explainers, options, bundle, device, hold)
        if planned.total <= options.memory_limit:
            return planned, hold
    raise UsageError(
        f"this configuration needs {memory.megabytes(planned.total)} a worker, more than --memory-limit "
        f"{memory.megabytes(options.memory_limit)}: {memory.megabytes(planned.decode)} for decoding images of up to "
        f"{options.max_pixels:,} pixels, {memory.megabytes(planned.embeddings)} for embeddings of masked images, "
        f"{memory.megabytes(planned.estimate)} for maps. Take fewer masks, methods or --max-pixels, or raise the limit."
    )


def _planned(
    explainers: tuple[Explainer, ...],
    options: AuditOptions,
    bundle: Bundle,
    device: Literal["cpu", "cuda"],
    hold: bool,
) -> memory.MemoryPlan:
    """One method is estimated after the other, but the banks that are kept are kept at once, and so are embeddings."""
    plans = [_plan_of(explainer, options, bundle, device, hold) for explainer in explainers]
    others = options.reference_masks if options.masked() else 0
    return memory.MemoryPlan(
        bank=(sum if hold else max)(plan.bank for plan in plans),
        embeddings=sum(plan.embeddings for plan in plans)
        + memory.reference_bytes(
            others, bundle.embedding_size, CHUNK, bundle.similarity_function, len(bundle.conditions)
        ),
        estimate=max(plan.estimate for plan in plans),
        decode=max(plan.decode for plan in plans),
    )


def _plan_of(
    explainer: Explainer, options: AuditOptions, bundle: Bundle, device: Literal["cpu", "cuda"], hold: bool
) -> memory.MemoryPlan:
    method = explainer.method
    batch = options.batch or memory.DEFAULT_BATCH[device]
    try:
        cost = method.cost(bundle.resize.size)
    except ValueError as error:
        raise UsageError(f"--method {method.name}: this bundle's frame and the options do not fit: {error}") from None
    load = memory.Workload(
        masks=cost.masks or batch,
        banks=cost.banks,
        size=bundle.resize.size,
        batch=batch,
        dimension=bundle.embedding_size,
        chunk=CHUNK,
        grid=cost.coefficients,
        max_pixels=options.max_pixels,
        hold=hold and cost.banks > 0,
        conditions=bool(bundle.conditions),
    )
    planned = memory.plan(load)
    if cost.steps:
        planned = replace(planned, estimate=planned.estimate + memory.gradient_bytes(bundle.resize.size, PAIRS))
    return planned
