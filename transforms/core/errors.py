"""Every error that whymatch raises, and the closed set of reasons a pair can fail for.

    WhymatchError
    ├── UsageError                 exit 2   the command, the configuration or an input file is wrong
    │   ├── AddressPatternError             a manifest or catalogue address matches nothing
    │   ├── BundleError                     a model bundle is incomplete, damaged or unusable
    │   ├── DeviceError                     the requested device cannot run
    │   └── MissingDependency               an optional package is not installed
    ├── RunError                   exit 3   the run itself broke; nothing it wrote counts as complete
    └── PairError                           one manifest row fails, the run goes on; ``reason`` is stable
        ├── RowError               stage read
        │   ├── BadRow                      bad_row
        │   ├── DuplicatePair               duplicate_pair
        │   ├── UnknownProduct              unknown_product
        │   ├── AmbiguousProduct            ambiguous_product
        │   ├── UnknownCondition            unknown_condition
        │   └── BadBoxes                    bad_boxes
        ├── AddressError           stage load
        │   ├── AddressRefused              address_refused
        │   ├── NotFound                    not_found
        │   ├── AccessDenied                access_denied
        │   ├── TooManyBytes                too_many_bytes
        │   └── StorageFault                storage_fault        retryable
        ├── ImageError             stage decode
        │   ├── EmptyImage                  empty
        │   ├── HtmlNotImage                html_not_image
        │   ├── XmlErrorDocument            xml_error_document
        │   ├── NotAnImage                  not_an_image
        │   ├── ImageTooLarge               image_too_large
        │   └── DamagedImage                damaged_image
        ├── ModelError             stage model
        │   ├── ModelFailed                 model_failed
        │   ├── NonFiniteEmbedding          non_finite_embedding
        │   ├── NonFiniteMap                non_finite_map
        │   └── NoNull                      no_null
        └── EvaluationError        stage evaluate
            ├── NoMap                       no_map
            ├── ImageChanged                image_changed
            ├── NoRegion                    no_region
            └── NotScored                   not_scored

A :class:`PairError` becomes a row of the ``failures`` table, or of ``metrics`` when an evaluation raises it, with its
class's ``reason``, and in ``failures`` its ``stage`` and ``retryable``. Reasons are part of the tables' contract: they
may be added to, never renamed.
"""

from __future__ import annotations

from typing import ClassVar


class WhymatchError(Exception):
    """Base class of all errors that whymatch raises on purpose."""


class UsageError(WhymatchError):
    """The command line, the configuration or an input file is wrong; the message says what to do."""


class AddressPatternError(UsageError):
    """A manifest or catalogue address matches no file."""


class BundleError(UsageError):
    """A model bundle is incomplete, damaged, or cannot serve what is asked of it."""


class DeviceError(UsageError):
    """The requested device is not what would run."""


class MissingDependency(UsageError):
    """An optional package is needed; the message holds the pip command that brings it."""


class RunError(WhymatchError):
    """The run broke; readers must not see it as complete."""


class PairError(WhymatchError):
    """One manifest row cannot be explained. Subclasses fix ``stage``, ``reason`` and ``retryable``."""

    stage: ClassVar[str]
    reason: ClassVar[str]
    retryable: ClassVar[bool] = False


class RowError(PairError):
    """A manifest row cannot be used as it stands."""

    stage = "read"


class BadRow(RowError):
    """A field is missing, empty or has the wrong type."""

    reason = "bad_row"


class DuplicatePair(RowError):
    """Another row has the same pair id; the smallest by canonical bytes is explained."""

    reason = "duplicate_pair"


class UnknownProduct(RowError):
    """The catalogue has no product of this id."""

    reason = "unknown_product"


class AmbiguousProduct(RowError):
    """The catalogue has several products of this id."""

    reason = "ambiguous_product"


class UnknownCondition(RowError):
    """The bundle has no such similarity condition."""

    reason = "unknown_condition"


class BadBoxes(RowError):
    """The catalogue's boxes of a photograph are none, or lie outside of it."""

    reason = "bad_boxes"


class AddressError(PairError):
    """The bytes behind an address cannot be had."""

    stage = "load"


class AddressRefused(AddressError):
    """The address is outside of what a manifest may name."""

    reason = "address_refused"


class NotFound(AddressError):
    """Nothing lies at the address."""

    reason = "not_found"


class AccessDenied(AddressError):
    """The storage refuses to read the address."""

    reason = "access_denied"


class TooManyBytes(AddressError):
    """The object is larger than the byte limit."""

    reason = "too_many_bytes"


class StorageFault(AddressError):
    """The storage failed for a reason that may pass."""

    reason = "storage_fault"
    retryable = True


class ImageError(PairError):
    """Bytes that cannot be decoded into an image under the limits."""

    stage = "decode"


class EmptyImage(ImageError):
    """Zero bytes."""

    reason = "empty"


class HtmlNotImage(ImageError):
    """An HTML page, most often an error page saved under an image's name."""

    reason = "html_not_image"


class XmlErrorDocument(ImageError):
    """An XML document, most often a storage's error answer."""

    reason = "xml_error_document"


class NotAnImage(ImageError):
    """Bytes of no format that whymatch decodes."""

    reason = "not_an_image"


class ImageTooLarge(ImageError):
    """More pixels, or a longer side, than the limits allow."""

    reason = "image_too_large"


class DamagedImage(ImageError):
    """An image whose data is cut short or broken."""

    reason = "damaged_image"


class ModelError(PairError):
    """The network cannot embed the image."""

    stage = "model"


class ModelFailed(ModelError):
    """The network raised an error."""

    reason = "model_failed"


class NonFiniteEmbedding(ModelError):
    """The embedding holds NaN or infinity."""

    reason = "non_finite_embedding"


class NonFiniteMap(ModelError):
    """A saliency map holds NaN or infinity."""

    reason = "non_finite_map"


class NoNull(ModelError):
    """There are too few random references for what is explained less their mean."""

    reason = "no_null"


class EvaluationError(PairError):
    """One measure of an explanation cannot be taken; the others are."""

    stage = "evaluate"


class NoMap(EvaluationError):
    """The table holds no map of finite numbers for the pair."""

    reason = "no_map"


class ImageChanged(EvaluationError):
    """The images are not those that were audited: their similarity is another."""

    reason = "image_changed"


class NoRegion(EvaluationError):
    """The catalogue shows no pixel of the asked region on the product, or nothing else."""

    reason = "no_region"


class NotScored(EvaluationError):
    """Attribute removal cannot judge the pair: no attribute can be removed, or none makes the similarity drop."""

    reason = "not_scored"


def _leaves(kind: type[PairError]) -> list[type[PairError]]:
    below = [leaf for child in kind.__subclasses__() for leaf in _leaves(child)]
    return below or [kind]


REASONS: dict[str, type[PairError]] = {leaf.reason: leaf for leaf in _leaves(PairError)}
"""Every reason code and its class: the closed set that ``failures.reason`` draws from."""
