"""Every address that whymatch opens: what may be opened, how it is read under limits, how a result is published.

Two kinds of address. A *trusted* one comes from the command line: ``read_file``, ``open_file``, ``expand``,
``publish`` and ``replace`` raise a UsageError or a RunError. An *untrusted* one comes from a manifest or a catalogue:
``read_image`` checks it against an ``Access`` first and raises AddressError subclasses, each the reason of a failed
pair.

Drivers put whole addresses, with user, password and signature, into their errors. So no driver's error leaves this
module: each is replaced, ``from None``, by one whose message was redacted.
"""

from __future__ import annotations

import errno
import glob
import importlib.util
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

from transforms import public_http
from transforms.addresses import checked, is_local, join, local_path, object_address, resolve, scheme_of
from transforms.core.errors import (
    AccessDenied,
    AddressError,
    AddressPatternError,
    AddressRefused,
    MissingDependency,
    NotFound,
    RunError,
    StorageFault,
    TooManyBytes,
    UsageError,
)
from transforms.redaction import redact, shown

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

T = TypeVar("T")

_DRIVERS = {"s3": "s3fs", "gs": "gcsfs"}  # scheme: the package that brings it
_CONFLICT_TRIES = 5


class AlreadyPublished(RunError):
    """Something lies at the address already; it was not touched."""


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


# Untrusted addresses


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
            return _capped(stream.read(access.max_bytes + 1), name, access.max_bytes)
    except OSError as error:
        raise _local_error(error, name) from None


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _check_regular(status: os.stat_result, name: str, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AddressRefused(f"{name} is a folder, a pipe or a device; expected a file")
    if status.st_size > max_bytes:
        raise TooManyBytes(f"{name} has {status.st_size:,} bytes; {max_bytes:,} are allowed")


def _capped(data: bytes, name: str, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise TooManyBytes(f"{name} has more than the {max_bytes:,} bytes that are allowed")
    return data


def _local_error(error: OSError, name: str) -> AddressError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"nothing lies at {name}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(f"{name} may not be read by this user; change its permissions")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO):
        return AddressRefused(f"{name} cannot be opened: {os.strerror(error.errno)}")
    return StorageFault(f"cannot read {name}: {os.strerror(error.errno or errno.EIO)}")


def _read_remote(address: str, max_bytes: int) -> bytes:
    name = shown(address)
    try:
        files, path = _filesystem(address)
        info = files.info(path)
        if info.get("type") == "directory":
            raise NotFound(f"{name} is a folder; expected an object")
        size = info.get("size")
        if size is not None and size > max_bytes:
            raise TooManyBytes(f"{name} has {size:,} bytes; {max_bytes:,} are allowed")
        if size == 0:
            return b""  # S3 answers a range of an empty object with an error
        return _capped(files.cat_file(path, start=0, end=max_bytes + 1), name, max_bytes)
    except AddressError:
        raise
    except MissingDependency as error:
        raise AddressRefused(str(error)) from None
    except Exception as error:  # drivers raise errors of many libraries; none may leave, see above
        raise _remote_error(error, address) from None


# Errors of drivers

_PERMISSIONS = {
    ("s3", "read"): "s3:GetObject and s3:ListBucket",
    ("s3", "write"): "s3:PutObject",
    ("gs", "read"): "storage.objects.get and storage.objects.list",
    ("gs", "write"): "storage.objects.create",
    ("s3", "replace"): "s3:PutObject",
    ("gs", "replace"): "storage.objects.create and storage.objects.delete",
}
_NO_CREDENTIALS = re.compile(r"Credential|RefreshError|TokenLoadError|UnauthorizedSSO|TokenRetrieval")


def _remote_error(error: Exception, address: str, action: str = "read") -> AddressError:
    """The AddressError for what s3fs, gcsfs or their libraries raised, without its text: that may hold secrets."""
    name = shown(address)
    scheme, _, rest = address.partition("://")
    bucket = shown(f"{scheme}://{rest.partition('/')[0]}")
    status = _http_status(error)
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


def _http_status(error: BaseException) -> int | None:
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


def _filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of a remote address and the path in it; MissingDependency without its driver.

    Never fsspec.open(address): that would follow '::' chains and take options out of the address.
    """
    scheme = scheme_of(address) or "file"
    driver = _DRIVERS.get(scheme)
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


# Trusted addresses


def _trusted(address: str, step: Callable[[], T]) -> T:
    """``step()`` with a driver's errors as a UsageError (missing, denied) or a RunError (the storage failed)."""
    try:
        return step()
    except (UsageError, RunError):
        raise
    except Exception as error:  # as in _read_remote
        raise _trusted_error(error, address) from None


def _trusted_error(error: Exception, address: str) -> UsageError | RunError:
    if isinstance(error, AddressError):
        found = error
    elif is_local(address) and isinstance(error, OSError):
        if error.errno == errno.EISDIR:
            return UsageError(f"{shown(address)} is a folder; expected a file")
        found = _local_error(error, shown(address))
    elif is_local(address):
        found = AddressRefused(f"{shown(address)} is no path: {type(error).__name__}")
    else:
        found = _remote_error(error, address)
    return (RunError if found.retryable else UsageError)(str(found))


def _storage(address: str) -> tuple[Any, str]:
    return _trusted(address, lambda: _filesystem(address))


def read_file(address: str, max_bytes: int | None = None) -> bytes:
    """All bytes of a trusted file; UsageError where it is missing, denied or larger than ``max_bytes``."""
    with open_file(address) as stream:
        data = _trusted(address, lambda: stream.read(-1 if max_bytes is None else max_bytes + 1))
    if max_bytes is not None and len(data) > max_bytes:
        raise UsageError(f"{shown(address)} has more than the {max_bytes:,} bytes that are expected at most")
    return data


@contextmanager
def open_file(address: str) -> Iterator[BinaryIO]:
    """A trusted file as a seekable stream, for as long as the block runs."""
    if is_local(address):
        with _trusted(address, lambda: open(local_path(address), "rb")) as stream:
            yield stream
        return
    files, path = _storage(address)
    source = _trusted(address, lambda: files.open(path, "rb"))
    with io.BufferedReader(_Guarded(source, address), buffer_size=1 << 20) as stream:
        yield cast(BinaryIO, stream)


class _Guarded(io.RawIOBase):
    """A driver's stream whose errors, which come while it is read, are whymatch's own."""

    def __init__(self, source: Any, address: str) -> None:
        self._source = source
        self._address = address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = _trusted(self._address, lambda: self._source.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(_trusted(self._address, lambda: self._source.seek(offset, whence)))

    def tell(self) -> int:
        return int(self._source.tell())

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def expand(pattern: str) -> list[str]:
    """The files, sorted, of a trusted address or of a pattern with ``*``, ``?``, ``[...]`` or ``**``.

    AddressPatternError where it matches no file: an empty run is no success.
    """
    found = _local_matches(local_path(pattern)) if is_local(pattern) else _remote_matches(pattern)
    if not found:
        folder = is_local(pattern) and os.path.isdir(local_path(pattern))
        hint = "It is a folder: add /* to it." if folder else "Check the address; a pattern may hold * and **."
        raise AddressPatternError(f"no file matches {shown(pattern)}. {hint}")
    return sorted(found)


def _local_matches(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]  # first, since a file's name may hold brackets
    return [name for name in glob.glob(path, recursive=True) if os.path.isfile(name)]


def _remote_matches(pattern: str) -> list[str]:
    files, path = _storage(pattern)
    if re.search(r"[*?\[]", path):
        infos = _trusted(pattern, lambda: list(files.glob(path, detail=True).values()))
    else:
        infos = _trusted(pattern, lambda: _info_or_none(files, path))
    return [f"{scheme_of(pattern)}://{info['name']}" for info in infos if info.get("type") == "file"]


def _info_or_none(files: Any, path: str) -> list[dict[str, Any]]:
    # Not files.isfile(), which answers False where the bucket refuses to say.
    try:
        return [files.info(path)]
    except FileNotFoundError:
        return []


def list_files(folder: str) -> list[str]:
    """All files below a trusted folder, sorted, without hidden ones; none where there is no such folder."""
    if is_local(folder):
        found = []
        for parent, folders, names in os.walk(local_path(folder)):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
        return sorted(found)
    files, path = _storage(folder)
    names = _trusted(folder, lambda: files.find(path))
    below = [name for name in names if "/." not in name.removeprefix(path) and not name.endswith("/")]
    return sorted(f"{scheme_of(folder)}://{name}" for name in below)


def exists(address: str) -> bool:
    """Whether a file or a folder lies at a trusted address."""
    if is_local(address):
        return os.path.exists(local_path(address))
    files, path = _storage(address)
    return bool(_trusted(address, lambda: _info_or_none(files, path)))


# Publishing


def publish(address: str, data: bytes) -> None:
    """Writes a file that does not exist yet, whole or not at all; AlreadyPublished where something lies there.

    Of two writers one wins. Locally: a private file in the same folder, on the disk (fsync), then a hard link, which
    fails where the name is taken. In S3 and Google storage: one conditional put.
    """
    if is_local(address):
        _publish_local(local_path(address), data)
        return
    if scheme_of(address) not in _DRIVERS:
        raise UsageError(f"cannot write {shown(address)}: results go to a local folder, to s3:// or to gs://")
    files, path = _storage(address)
    for attempt in range(_CONFLICT_TRIES):
        try:
            files.pipe_file(path, data, mode="create")
            return
        except Exception as error:  # as in _read_remote
            status = _http_status(error)
            if isinstance(error, FileExistsError) or status == 412:
                raise _taken(address) from None
            if status != 409 or attempt == _CONFLICT_TRIES - 1:
                raise RunError(str(_remote_error(error, address, "write"))) from None
            time.sleep(0.1 * 2**attempt)  # S3: another conditional put of this key is under way


def _publish_local(path: str, data: bytes) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    private = os.path.join(folder, f".{os.path.basename(path)[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        _write_private(private, data)
        try:
            os.link(private, path)
        except FileExistsError:
            raise _taken(path) from None
        finally:
            os.unlink(private)
        _sync_folder(folder)
    except OSError as error:
        hint = ""
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV):
            hint = "; this file system may have no hard links, choose another folder"
        raise RunError(f"cannot write {shown(path)}: {os.strerror(error.errno or errno.EIO)}{hint}") from None


def replace(address: str, data: bytes) -> None:
    """Gives a file that exists new content, at once; UsageError where nothing lies there.

    A reader sees the old bytes or the new ones. Locally: a private file in the same folder, on the disk (fsync), with
    the old one's permissions and, where this user may, its owner; then a rename over it. A link is followed, so that
    the old bytes go and not the link. In S3 and Google storage: one put.
    """
    if is_local(address):
        _replace_local(local_path(address), data)
        return
    if scheme_of(address) not in _DRIVERS:
        raise UsageError(f"cannot replace {shown(address)}: files lie in a local folder, in s3:// or in gs://")
    files, path = _storage(address)
    if not _trusted(address, lambda: _info_or_none(files, path)):
        raise UsageError(f"nothing lies at {shown(address)}; a file to replace is expected")
    try:
        files.pipe_file(path, data)
    except Exception as error:  # as in _read_remote
        raise RunError(str(_remote_error(error, address, "replace"))) from None


def _replace_local(path: str, data: bytes) -> None:
    real = os.path.realpath(path)
    folder, name = os.path.split(real)
    private = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        before = os.stat(real)
        if not stat.S_ISREG(before.st_mode):
            raise UsageError(f"{shown(path)} is a folder, a pipe or a device; expected a file")
        _write_private(private, data)
        try:
            with suppress(PermissionError):  # only root may give a file away
                os.chown(private, before.st_uid, before.st_gid)
            os.chmod(private, stat.S_IMODE(before.st_mode))  # after chown, which takes bits away
            os.replace(private, real)
        except BaseException:
            os.unlink(private)
            raise
        _sync_folder(folder)
    except FileNotFoundError:
        raise UsageError(f"nothing lies at {shown(path)}; a file to replace is expected") from None
    except OSError as error:
        raise RunError(f"cannot replace {shown(path)}: {os.strerror(error.errno or errno.EIO)}") from None


def _write_private(path: str, data: bytes) -> None:
    # os.open rather than tempfile: the published file keeps the permissions that the umask gives new files.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(path)
        raise


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _taken(address: str) -> AlreadyPublished:
    return AlreadyPublished(f"{shown(address)} exists already and was not touched; choose another run id or folder")
