"""Is this the model that served? The first scored pairs of a manifest are recomputed before anything is explained."""

from __future__ import annotations

from pipeline.audit.options import AuditOptions
from pipeline.audit.served.comparison import Compared, compare
from pipeline.audit.served.complaint import complaint, told
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.messages import Echo
from transforms.inputs import catalogue, manifest
from transforms.serving import bundle as bundles
from transforms.serving.bundle import Bundle
from transforms.serving.models import Models, Serving
from transforms.serving.runtime import resolve_device


def check_served(options: AuditOptions, bundle: Bundle, files: tuple[str, ...], models: Models, echo: Echo) -> None:
    """Compares the first ``PAIRS`` served scores of the manifest ``files`` with ``bundle``'s, which ``models`` holds.

    Says in a line how they agree, or that nothing could be checked. UsageError where more than ``MOST_OFF`` of
    them, and at least ``FEWEST_OFF`` or all, are off by more than ``options.score_tolerance``; it says what would make
    them fit.
    """
    compared = compare(options, bundle, files, models, echo)
    if not compared.pairs:
        echo(f"served scores: {compared.nothing}, so whether this bundle is the model that served is not checked")
        return
    for line in compared.left_out_lines():
        echo(line)
    found = compared.agreement
    if found.refused:
        raise UsageError(complaint(compared, options, bundle, files, models, echo))
    echo(
        f"served scores: {found.pairs} pairs recomputed, {found.off} off by more than {found.tolerance:g} (median "
        f"difference {found.median:.2g}, largest {found.largest:.2g})"
    )


def check(options: AuditOptions, most: int, echo: Echo) -> Compared:
    """``whymatch check``: the comparison alone, of the first ``most`` served scores, and how they differ.

    UsageError where they do not agree, and where none could be compared: nothing checked is no assurance.
    """
    if most < 1:
        raise UsageError(f"--pairs must be at least 1, not {most}")
    bundle = bundles.read(options.bundle)
    files = tuple(file for pattern in options.manifest for file in storage.expand(pattern))
    for file in files:
        manifest.check_header(file, columns=options.columns, has_catalogue=options.catalogue is not None)
    if options.catalogue is not None:
        catalogue.check_header(options.catalogue)
    device = resolve_device(options.device)
    models = Models(Serving(options.bundle, device, options.threads, options.batch, attributes=False))
    compared = compare(options, bundle, files, models, echo, most)
    if not compared.pairs:
        raise UsageError(f"{compared.nothing}: whether this bundle is the model that served is not known")
    for line in (*compared.left_out_lines(), *_distribution(compared)):
        echo(line)
    if compared.agreement.refused:
        raise UsageError(complaint(compared, options, bundle, files, models, echo))
    echo(f"this bundle ({bundle.model_id}) gives the scores that were served")
    return compared


def _distribution(compared: Compared) -> list[str]:
    found = compared.agreement
    return [
        f"compared: {found.pairs} pairs, {found.off} off by more than {found.tolerance:g}",
        f"absolute difference: median {found.median:.3g}, 95th percentile {found.p95:.3g}, largest {found.largest:.3g}",
        f"rank correlation of served and recomputed scores: {told(found.rank_correlation)}",
    ]
