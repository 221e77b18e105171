"""fsspec's drivers, and their errors in whymatch's words. The only file that imports fsspec.

Drivers put whole addresses, with user, password and signature, into their errors. So no driver's error leaves this
room: each is replaced, ``from None``, by one whose message was redacted.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

from transforms.core.errors import (
    AccessDenied,
    AddressError,
    AddressRefused,
    MissingDependency,
    NotFound,
    RunError,
    StorageFault,
    UsageError,
)
from transforms.core.redaction import shown
from transforms.storage.addresses import is_local, scheme_of

T = TypeVar("T")


DRIVERS = {"s3": "s3fs", "gs": "gcsfs"}  # scheme: the package that brings it


_PERMISSIONS = {
    ("s3", "read"): "s3:GetObject and s3:ListBucket",
    ("s3", "write"): "s3:PutObject",
    ("gs", "read"): "storage.objects.get and storage.objects.list",
    ("gs", "write"): "storage.objects.create",
    ("s3", "replace"): "s3:PutObject",
    ("gs", "replace"): "storage.objects.create and storage.objects.delete",
}


_NO_CREDENTIALS = re.compile(r"Credential|RefreshError|TokenLoadError|UnauthorizedSSO|TokenRetrieval")


def remote_error(error: Exception, address: str, action: str = "read") -> AddressError:
    """The AddressError for what s3fs, gcsfs or their libraries raised, without its text: that may hold secrets."""
    name = shown(address)
    scheme, _, rest = address.partition("://")
    bucket = shown(f"{scheme}://{rest.partition('/')[0]}")
    status = http_status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return NotFound(f"nothing lies at {name}" if action == "read" else f"there is no bucket {bucket}; create it")
    if _NO_CREDENTIALS.search(type(error).__name__):
        return AccessDenied(f"no usable credentials to {action} {name}; {_how_to_log_in(scheme)}")
    if isinstance(error, PermissionError) or status in (401, 403) or str(error).startswith("Forbidden"):
        permission = _PERMISSIONS.get((scheme, action), f"to {action} objects")
        return AccessDenied(
            f"bucket {bucket} refuses to {action} {name}; {_how_to_log_in(scheme)}, and allow it {permission}"
        )
    code = f", HTTP {status}" if status else ""
    return StorageFault(f"cannot {action} {name} ({type(error).__name__}{code})")


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind a driver's error: botocore keeps it in a response, gcsfs in a code."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "code", None) or getattr(error, "status", None)
    try:
        return int(found) if found is not None else None
    except (TypeError, ValueError):
        return None


def _how_to_log_in(scheme: str) -> str:
    if scheme == "s3":
        return "give the worker an AWS identity (AWS_PROFILE, AWS_ACCESS_KEY_ID, or an instance role)"
    if scheme == "gs":
        return "give the worker a Google identity (GOOGLE_APPLICATION_CREDENTIALS, or a service account)"
    return "give the worker an identity for this storage"


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of a remote address and the path in it; MissingDependency without its driver.

    Never fsspec.open(address): that would follow '::' chains and take options out of the address.
    """
    scheme = scheme_of(address) or "file"
    driver = DRIVERS.get(scheme)
    if driver is not None and importlib.util.find_spec(driver) is None:
        raise MissingDependency(f"{scheme}:// addresses need {driver}. Run: pip install {driver}")
    import fsspec  # here, so that local runs start without it

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError):
        raise MissingDependency(
            f"no driver for {scheme}:// addresses is installed; whymatch brings those for s3:// and gs://. "
            f"Run: pip install s3fs or gcsfs, or install the fsspec driver for {scheme}"
        ) from None
    files = kind(use_listings_cache=False)  # another writer's new files must be seen
    return files, files._strip_protocol(address)


def trusted(address: str, step: Callable[[], T]) -> T:
    """``step()`` with a driver's errors as a UsageError (missing, denied) or a RunError (the storage failed)."""
    try:
        return step()
    except (UsageError, RunError):
        raise
    except Exception as error:  # as in _read_remote
        raise trusted_error(error, address) from None


def trusted_error(error: Exception, address: str) -> UsageError | RunError:
    if isinstance(error, AddressError):
        found = error
    elif is_local(address) and isinstance(error, OSError):
        if error.errno == errno.EISDIR:
            return UsageError(f"{shown(address)} is a folder; expected a file")
        found = local_error(error, shown(address))
    elif is_local(address):
        found = AddressRefused(f"{shown(address)} is no path: {type(error).__name__}")
    else:
        found = remote_error(error, address)
    return (RunError if found.retryable else UsageError)(str(found))


def trusted_filesystem(address: str) -> tuple[Any, str]:
    return trusted(address, lambda: filesystem(address))


def local_error(error: OSError, name: str) -> AddressError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"nothing lies at {name}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(f"{name} may not be read by this user; change its permissions")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO):
        return AddressRefused(f"{name} cannot be opened: {os.strerror(error.errno)}")
    return StorageFault(f"cannot read {name}: {os.strerror(error.errno or errno.EIO)}")
