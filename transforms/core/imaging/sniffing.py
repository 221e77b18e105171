"""What lies at an address instead of an image, from its first bytes: most often it tells the user what went wrong."""

from __future__ import annotations

import re

from transforms.core.errors import (
    DamagedImage,
    EmptyImage,
    HtmlNotImage,
    ImageError,
    NotAnImage,
    XmlErrorDocument,
)
from transforms.core.imaging.headers import PNG, is_webp

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""The formats that whymatch decodes, by Pillow's names."""

_KNOWN_HEADS: tuple[tuple[bytes, str], ...] = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"%!PS", "PostScript"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
_OUR_HEADS = (b"\xff\xd8\xff", PNG, b"GIF87a", b"GIF89a")
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|script|title|meta)\b", re.IGNORECASE)
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")


def refuse_what_is_no_image(data: bytes) -> None:
    """Raises the ImageError that says what ``data`` is, if its first bytes are text that is no image."""
    if not data:
        raise EmptyImage("the file is empty (0 bytes); upload it again")
    head = _text_head(data)
    if not head.startswith(b"<"):
        return
    if _HTML.search(head):
        raise HtmlNotImage("an HTML page lies there instead of an image; most often a login or an error page")
    if re.search(rb"<svg\b", head, re.IGNORECASE):
        raise NotAnImage(_unsupported("SVG"))
    if re.match(rb"<\?xml|<Error\b", head):
        code = _CODE.search(head)
        said = f" ({code[1].decode()})" if code else ""
        raise XmlErrorDocument(f"an XML document lies there instead of an image; most often a storage's error{said}")


def _text_head(data: bytes) -> bytes:
    """The first kilobyte as ASCII-compatible text, without byte order mark and leading white space."""
    head = data[:2048]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", "replace").encode()
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1024]


def _unsupported(name: str) -> str:
    return f"the file looks like {name}; whymatch reads {', '.join(FORMATS)}. Convert it, or correct the address."


def not_identified(data: bytes) -> ImageError:
    """The error for bytes in which Pillow recognised none of the FORMATS."""
    if data.startswith(_OUR_HEADS) or is_webp(data):
        return DamagedImage("the header of the image is broken or cut short; upload the file again")
    if data[4:8] == b"ftyp":
        return NotAnImage(_unsupported("AVIF, HEIC or a video"))
    for start, name in _KNOWN_HEADS:
        if data.startswith(start):
            return NotAnImage(_unsupported(name))
    return NotAnImage(f"the {len(data):,} bytes are in no format that whymatch reads ({', '.join(FORMATS)})")
