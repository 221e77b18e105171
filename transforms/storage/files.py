"""Files at trusted addresses, those of the command line: read, listed and found by pattern."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from transforms.core.errors import (
    AddressPatternError,
    UsageError,
)
from transforms.core.redaction import shown
from transforms.storage.addresses import is_local, local_path, scheme_of
from transforms.storage.drivers import trusted, trusted_filesystem

# Untrusted addresses


# Errors of drivers


# Trusted addresses


def read_file(address: str, max_bytes: int | None = None) -> bytes:
    """All bytes of a trusted file; UsageError where it is missing, denied or larger than ``max_bytes``."""
    with open_file(address) as stream:
        data = trusted(address, lambda: stream.read(-1 if max_bytes is None else max_bytes + 1))
    if max_bytes is not None and len(data) > max_bytes:
        raise UsageError(f"{shown(address)} has more than the {max_bytes:,} bytes that are expected at most")
    return data


@contextmanager
def open_file(address: str) -> Iterator[BinaryIO]:
    """A trusted file as a seekable stream, for as long as the block runs."""
    if is_local(address):
        with trusted(address, lambda: open(local_path(address), "rb")) as stream:
            yield stream
        return
    files, path = trusted_filesystem(address)
    source = trusted(address, lambda: files.open(path, "rb"))
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
        data = trusted(self._address, lambda: self._source.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(trusted(self._address, lambda: self._source.seek(offset, whence)))

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
    files, path = trusted_filesystem(pattern)
    if re.search(r"[*?\[]", path):
        infos = trusted(pattern, lambda: list(files.glob(path, detail=True).values()))
    else:
        infos = trusted(pattern, lambda: info_or_none(files, path))
    return [f"{scheme_of(pattern)}://{info['name']}" for info in infos if info.get("type") == "file"]


def info_or_none(files: Any, path: str) -> list[dict[str, Any]]:
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
    files, path = trusted_filesystem(folder)
    names = trusted(folder, lambda: files.find(path))
    below = [name for name in names if "/." not in name.removeprefix(path) and not name.endswith("/")]
    return sorted(f"{scheme_of(folder)}://{name}" for name in below)


def exists(address: str) -> bool:
    """Whether a file or a folder lies at a trusted address."""
    if is_local(address):
        return os.path.exists(local_path(address))
    files, path = trusted_filesystem(address)
    return bool(trusted(address, lambda: info_or_none(files, path)))


# Publishing
