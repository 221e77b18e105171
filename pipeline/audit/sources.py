"""What an audit takes from its catalogue, or from its manifest: regions, random references, images to try first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pipeline.audit.options import AuditOptions
from pipeline.audit.probe import MOST_TRIED
from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.messages import Echo
from transforms.core.records import Pair, Product
from transforms.inputs import catalogue, manifest
from transforms.inputs.random_references import Drawn, of_catalogue, of_manifest
from transforms.inputs.region_files import RegionReader
from transforms.inputs.region_legend import Legend, read_legend
from transforms.inputs.rows import header


def random_references(options: AuditOptions, files: tuple[str, ...]) -> Drawn:
    """Addresses of the random references; none where no method compares an image with them at no passes."""
    if not any(explainer.compares_freely for explainer in options.explainers()):
        return {}
    if options.catalogue:
        return of_catalogue(options.catalogue, options.sides(), options.seed)
    return of_manifest(files, options.columns, options.sides(), options.seed)


def addresses(options: AuditOptions, files: tuple[str, ...]) -> Iterator[str]:
    """Addresses of images of the run, those that come first; of the catalogue's where the manifest has none."""
    first = islice(manifest.read(files[0], columns=options.columns), MOST_TRIED)
    named = [address for item in first if isinstance(item, Pair) for address in (item.query, item.reference)]
    yield from filter(None, named)
    if options.catalogue:
        products = islice(catalogue.read(options.catalogue), MOST_TRIED)
        yield from (item.image for item in products if isinstance(item, Product))


def regions(options: AuditOptions, files: tuple[str, ...], echo: Echo) -> RegionReader | None:
    """How workers read the regions of photographs, None where the catalogue has none.

    UsageError where a legend that ``--legend`` names, or one that lies beside label images, is none.
    """
    columns = header(options.catalogue) if options.catalogue else ()
    if not {"regions", "boxes"} & set(columns):
        if options.legend:
            lacking = (
                "the catalogue has no column 'regions' or 'boxes'"
                if options.catalogue
                else "there is no catalogue: --catalogue gives one"
            )
            raise UsageError(f"--legend names the labels of label images and says what boxes show, and {lacking}")
        return None
    return RegionReader(options.access(files), options.limits(), _legend(options, columns, echo))


def _legend(options: AuditOptions, columns: tuple[str, ...], echo: Echo) -> Legend:
    """The legend that ``--legend`` names, else that of label images: ``regions.json`` beside the catalogue.

    Boxes have names of their own: beside a catalogue without label images that file may be anyone's.
    """
    if options.legend:
        return read_legend(options.legend)
    if "regions" not in columns:
        return Legend({})
    assert options.catalogue is not None
    address = storage.resolve("regions.json", options.catalogue)
    try:
        found = storage.exists(address)
    except UsageError as error:
        # S3 denies a file that is not there to who may read files and not list them; a file that is there can be read
        echo(f"regions: no legend was found, so labels have no names; --legend gives one. Denied: {error}")
        return Legend({})
    if found:
        return read_legend(address)
    echo(f"regions: no legend at {storage.shown(address)}, so labels have no names; --legend gives one")
    return Legend({})
