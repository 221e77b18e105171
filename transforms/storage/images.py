"""Images at untrusted addresses, those of a manifest or a catalogue, read under an :class:`Access`.

What is wrong is an AddressError, the reason of a failed pair.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from transforms.core.errors import (
    AddressError,
    AddressRefused,
    MissingDependency,
    NotFound,
    TooManyBytes,
)
from transforms.core.redaction import shown
from transforms.storage import public_http
from transforms.storage.addresses import checked, local_path, object_address, scheme_of
from transforms.storage.drivers import (
    filesystem,
    local_error,
    remote_error,
)


@dataclass(frozen=True)
class Access:
    """What an address of a manifest may reach.

    ``roots`` are the local folders under which an image may lie, links resolved; none by default. ``schemes`` are the
    remote ones. ``allow_http`` adds http and https, to public servers only.
    """

    roots: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("gs", "s3")
    allow_http: bool = False
    max_bytes: int = 32 * 2**20


def read_image(address: str, access: Access) -> bytes:
    """The bytes at an address that a manifest or catalogue names; AddressError subclasses where it may not be read.

    A scheme whose driver is not installed refuses the address, with the pip command: one such row in a manifest must
    not stop the run of the others.
    """
    address = checked(address)
    scheme = scheme_of(address)
    if scheme is None:
        return _read_local(address, access)
    if scheme in ("http", "https") and access.allow_http:
        return public_http.get(address, access.max_bytes)
    if scheme not in access.schemes or scheme in ("http", "https", "file"):
        allowed = ", ".join(["local paths", *access.schemes, *(["http", "https"] if access.allow_http else [])])
        raise AddressRefused(f"{shown(address)} has the scheme {scheme!r}; allowed are {allowed}")
    return _read_remote(object_address(address), access.max_bytes)


def _read_local(path: str, access: Access) -> bytes:
    name = shown(path)
    real = os.path.realpath(path)
    if not any(_inside(real, os.path.realpath(local_path(root))) for root in access.roots):
        raise AddressRefused(
            f"{name} does not lie under a folder that may be read ({', '.join(access.roots) or 'none'}); "
            "--image-root adds one"
        )
    try:
        # Looked at before it is opened, since opening a device can act; and again after, since it may be another now.
        _check_regular(os.stat(real), name, access.max_bytes)
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            _check_regular(os.fstat(descriptor), name, access.max_bytes)
            return capped(stream.read(access.max_bytes + 1), name, access.max_bytes)
    except OSError as error:
        raise local_error(error, name) from None


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _check_regular(status: os.stat_result, name: str, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AddressRefused(f"{name} is a folder, a pipe or a device; expected a file")
    if status.st_size > max_bytes:
        raise TooManyBytes(f"{name} has {status.st_size:,} bytes; {max_bytes:,} are allowed")


def capped(data: bytes, name: str, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise TooManyBytes(f"{name} has more than the {max_bytes:,} bytes that are allowed")
    return data


def _read_remote(address: str, max_bytes: int) -> bytes:
    name = shown(address)
    try:
        files, path = filesystem(address)
        info = files.info(path)
        if info.get("type") == "directory":
            raise NotFound(f"{name} is a folder; expected an object")
        size = info.get("size")
        if size is not None and size > max_bytes:
            raise TooManyBytes(f"{name} has {size:,} bytes; {max_bytes:,} are allowed")
        if size == 0:
            return b""  # S3 answers a range of an empty object with an error
        return capped(files.cat_file(path, start=0, end=max_bytes + 1), name, max_bytes)
    except AddressError:
        raise
    except MissingDependency as error:
        raise AddressRefused(str(error)) from None
    except Exception as error:  # drivers raise errors of many libraries; none may leave, see above
        raise remote_error(error, address) from None
