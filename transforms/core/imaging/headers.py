"""What is read and taken away of an image's bytes before a decoder sees them.

Pillow takes memory for a WEBP's whole canvas when it opens the file, and inflates every compressed chunk of a PNG's
metadata: 30 MB of colour profiles kept it busy for 70 seconds. Both are settled here.
"""

from __future__ import annotations

from transforms.core.errors import DamagedImage

PNG = b"\x89PNG\r\n\x1a\n"
# Pixels, palette, transparency and orientation. Without its animation chunks a PNG is its first, or default, frame.
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_MOST_CHUNKS = 50_000  # 32 MiB of pixels in the customary 8 KiB are 4,096; walking them takes under 0.05 s


def is_webp(data: bytes) -> bool:
    """Whether ``data`` begins as a WEBP does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def webp_size(data: bytes) -> tuple[int, int]:
    """Height and width that a WEBP declares; (0, 0) where there is no header to read."""
    if not is_webp(data) or len(data) < 30:
        return 0, 0
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF
    return 0, 0


def essential(data: bytes) -> bytes:
    """``data``, a PNG without the chunks that whymatch has no use for; anything else as it is."""
    if not data.startswith(PNG):
        return data
    parts = [PNG]
    position = len(PNG)
    for _ in range(_MOST_CHUNKS):
        name = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if name in _KEPT or not name.isalpha():  # what is no chunk stays, for the decoder to refuse
            parts.append(data[position:end])
        position = end
        if name == b"IEND" or position >= len(data):
            return b"".join(parts)
    raise DamagedImage(f"the PNG has more than {_MOST_CHUNKS:,} chunks; save it again")
