"""How a result is published: whole or not at all, and by one writer."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from contextlib import suppress

from transforms.core.errors import (
    RunError,
    UsageError,
)
from transforms.core.redaction import shown
from transforms.storage.addresses import is_local, local_path, scheme_of
from transforms.storage.drivers import DRIVERS, http_status, remote_error, trusted, trusted_filesystem
from transforms.storage.files import info_or_none

_CONFLICT_TRIES = 5


class AlreadyPublished(RunError):
    """Something lies at the address already; it was not touched."""


def publish(address: str, data: bytes) -> None:
    """Writes a file that does not exist yet, whole or not at all; AlreadyPublished where something lies there.

    Of two writers one wins. Locally: a private file in the same folder, on the disk (fsync), then a hard link, which
    fails where the name is taken. In S3 and Google storage: one conditional put.
    """
    if is_local(address):
        _publish_local(local_path(address), data)
        return
    if scheme_of(address) not in DRIVERS:
        raise UsageError(f"cannot write {shown(address)}: results go to a local folder, to s3:// or to gs://")
    files, path = trusted_filesystem(address)
    for attempt in range(_CONFLICT_TRIES):
        try:
            files.pipe_file(path, data, mode="create")
            return
        except Exception as error:  # as in _read_remote
            status = http_status(error)
            if isinstance(error, FileExistsError) or status == 412:
                raise _taken(address) from None
            if status != 409 or attempt == _CONFLICT_TRIES - 1:
                raise RunError(str(remote_error(error, address, "write"))) from None
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
    if scheme_of(address) not in DRIVERS:
        raise UsageError(f"cannot replace {shown(address)}: files lie in a local folder, in s3:// or in gs://")
    files, path = trusted_filesystem(address)
    if not trusted(address, lambda: info_or_none(files, path)):
        raise UsageError(f"nothing lies at {shown(address)}; a file to replace is expected")
    try:
        files.pipe_file(path, data)
    except Exception as error:  # as in _read_remote
        raise RunError(str(remote_error(error, address, "replace"))) from None


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
