"""Addresses as text: how one is put together, and what is refused before any storage is asked.

An address is a local path, a ``file://`` URL of this machine, or ``scheme://bucket/key``. Addresses of a manifest or a
catalogue are not trusted; ``checked`` refuses the shapes that make a reader open something else than it says.
"""

from __future__ import annotations

import os
import re
import unicodedata
from urllib.parse import unquote

from transforms.core.errors import AddressRefused
from transforms.core.redaction import shown

MAX_LENGTH = 8192  # characters; a path has at most 4,096, a signed web address seldom more

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://")
# Without the slashes these still are no file names: RFC 8089 allows file:/etc/passwd.
_SCHEME_ONLY = re.compile(r"(?:file|data|https?|ftp|javascript|blob|local|memory|reference|zip|tar):", re.IGNORECASE)


def scheme_of(address: str) -> str | None:
    """The scheme in front of ``://``, in lower case; None for a path."""
    match = _SCHEME.match(address)
    return match[1].lower() if match else None


def local_path(address: str) -> str:
    """The path of a ``file://`` URL of this machine; any other address as it is."""
    if scheme_of(address) != "file":
        return address
    host, slash, path = address[len("file://") :].partition("/")
    return unquote(slash + path) if host.lower() in ("", "localhost") and slash else address


def is_local(address: str) -> bool:
    """Whether an address is a path, or a ``file://`` URL of this machine."""
    return scheme_of(local_path(address)) is None


def join(folder: str, *names: str) -> str:
    """The address of something below a folder."""
    if not folder:
        return "/".join(names)
    return "/".join(["" if folder == "/" else folder.rstrip("/"), *names])


def resolve(address: str, base: str) -> str:
    """``address`` as it stands in the file ``base``: absolute, or relative to the folder of that file.

    Lexical: nothing is looked up, and ``..`` stays for ``checked`` to refuse. Local addresses become absolute paths.
    """
    if scheme_of(address) is not None:
        return local_path(address)
    if _SCHEME_ONLY.match(address) or address.startswith("/"):
        return address
    if not is_local(base):
        return f"{base.partition('?')[0].rpartition('/')[0]}/{address}"
    return os.path.join(os.path.dirname(os.path.abspath(local_path(base))), address)


def checked(address: str) -> str:
    """An untrusted address, ``file://`` as a path, after all checks of its text; AddressRefused where one fails."""
    if not address or len(address) > MAX_LENGTH:
        raise AddressRefused(f"the address has {len(address):,} characters; expected 1 to {MAX_LENGTH:,}")
    decoded = _fully_unquoted(address)
    # Cs: half of a surrogate pair, which no file system and no server can be asked for.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in address + decoded):
        raise AddressRefused(f"{shown(address)} holds a control character")
    if "::" in address:
        raise AddressRefused(f"{shown(address)} chains addresses with '::'; give the image's own address")
    if ".." in re.split(r"[/\\]", decoded):
        raise AddressRefused(f"{shown(address)} climbs up with '..'; give the address without it")
    path = local_path(address)
    if scheme_of(path) == "file" or (scheme_of(path) is None and _SCHEME_ONLY.match(path)):
        raise AddressRefused(f"{shown(address)} is no address of an image; expected a path or scheme://bucket/key")
    return path


def object_address(address: str) -> str:
    """A checked ``scheme://bucket/key`` with the scheme in lower case; AddressRefused where it is not of this form."""
    scheme = scheme_of(address)
    bucket, _, key = address.partition("://")[2].partition("/")
    if "@" in bucket or ":" in bucket:
        raise AddressRefused(f"{shown(address)} holds credentials; they are taken from the environment only")
    if not bucket or not key:
        raise AddressRefused(f"{shown(address)} names no object; expected {scheme}://bucket/key")
    return f"{scheme}://{bucket}/{key}"


def _fully_unquoted(address: str) -> str:
    decoded = address
    for _ in range(4):  # %252e%252e is '..' after two rounds; nobody encodes oftener by accident
        once_more = unquote(decoded, errors="replace")
        if once_more == decoded:
            return decoded
        decoded = once_more
    raise AddressRefused(f"{shown(address)} is percent-encoded several times over")
