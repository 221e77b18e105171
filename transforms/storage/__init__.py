"""Every address that whymatch opens: what may be opened, how it is read under limits, how a result is published.

Two kinds of address. A *trusted* one comes from the command line: ``read_file``, ``open_file``, ``expand``,
``publish`` and ``replace`` raise a UsageError or a RunError. An *untrusted* one comes from a manifest or a catalogue:
``read_image`` checks it against an ``Access`` first and raises AddressError subclasses, each the reason of a failed
pair.
"""

from transforms.core.redaction import redact, shown
from transforms.storage.addresses import join, resolve
from transforms.storage.files import exists, expand, list_files, open_file, read_file
from transforms.storage.images import Access, read_image
from transforms.storage.publishing import AlreadyPublished, publish, replace

__all__ = [
    "Access",
    "AlreadyPublished",
    "exists",
    "expand",
    "join",
    "list_files",
    "open_file",
    "publish",
    "read_file",
    "read_image",
    "redact",
    "replace",
    "resolve",
    "shown",
]
