"""Input that breaks others: images and addresses, each with what has to become of it. Made here, byte by byte."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

HEIGHT, WIDTH = 60, 80
RED, GREEN, BLUE, WHITE = (200, 30, 40), (40, 160, 60), (30, 60, 190), (255, 255, 255)


def scene() -> NDArray[np.uint8]:
    """What every valid image of this module shows, [60, 80, 3]: red, green / blue, white, in its four quarters."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:30, :40], image[:30, 40:], image[30:, :40], image[30:, 40:] = RED, GREEN, BLUE, WHITE
    return image


def grey_scene() -> NDArray[np.uint8]:
    """The same in grey, as three equal channels: 50, 100 / 200, 255."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:30, :40], image[:30, 40:], image[30:, :40], image[30:, 40:] = 50, 100, 200, 255
    return image


def png(
    height: int, width: int, depth: int, colour: int, rows: bytes, extra: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """A PNG of raw rows without filter bytes; ``colour`` is the colour type, ``extra`` chunks precede the pixels."""
    stride = len(rows) // height if height else 0
    filtered = b"".join(b"\0" + rows[row * stride : (row + 1) * stride] for row in range(height))
    return png_of(height, width, depth, colour, zlib.compress(filtered), extra)


def png_of(
    height: int, width: int, depth: int, colour: int, pixels: bytes, extra: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """A PNG around an already compressed stream of pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _saved(image: NDArray[np.uint8] | PIL.Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def jpeg(image: NDArray[np.uint8] | PIL.Image.Image | None = None, **options: Any) -> bytes:
    """The scene, or another image, as a JPEG of high quality."""
    return _saved(scene() if image is None else image, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def _with_hole() -> NDArray[np.uint8]:
    """The scene as RGBA, [60, 80, 4]: its white quarter is transparent, and green where one looks under it."""
    image = np.dstack([scene(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    image[30:, 40:] = (0, 255, 0, 0)
    return image


def _turned(orientation: int) -> PIL.Image.Image:
    """The scene as a camera stores it that notes ``orientation``, 1 to 8, in EXIF."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers: 2 is ROTATE_90, 4 ROTATE_270
    image = PIL.Image.fromarray(scene())
    return image.transpose(PIL.Image.Transpose(undo[orientation])) if orientation > 1 else image


def _exif(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


def _palette(transparent: bool) -> PIL.Image.Image:
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[:30, 40:], indices[30:, :40], indices[30:, 40:] = 1, 2, 3
    image = PIL.Image.fromarray(indices)
    image.putpalette([*RED, *GREEN, *BLUE, *((0, 255, 0) if transparent else WHITE)])
    return image


def _pixels16(image: NDArray[np.uint8], alpha: NDArray[np.uint8] | None = None) -> bytes:
    """Pixels as big-endian 16 bit samples, v * 257, so that 255 becomes 65535."""
    samples = image if alpha is None else np.dstack([image, alpha])
    return (samples.astype(np.uint32) * 257).astype(">u2").tobytes()


def valid_images() -> dict[str, bytes]:
    """Odd but valid images: each decodes to ``scene()``, or to ``grey_scene()`` where the name starts with "grey"."""
    colour, grey, hole = scene(), grey_scene()[:, :, 0], _with_hole()
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    keyed = colour.copy()
    keyed[30:, 40:] = (1, 2, 3)  # the colour that a tRNS chunk declares transparent
    frames = [PIL.Image.fromarray(black)]
    hole_alpha = hole[:, :, 3]
    cmyk = PIL.Image.fromarray(np.dstack([255 - colour, np.zeros((HEIGHT, WIDTH), np.uint8)]), "CMYK")
    grey_keyed = (grey.astype(np.uint32) * 257).astype(">u2")
    grey_keyed[30:, 40:] = 12345
    found = {
        "jpeg": jpeg(),
        "jpeg_progressive": jpeg(progressive=True),
        "jpeg_cmyk": jpeg(cmyk),
        "jpeg_trailing_bytes": jpeg() + b"<html>" + b"\0" * 100,
        "jpeg_mpo": _saved(colour, "MPO", save_all=True, append_images=frames, quality=95, subsampling=0),
        "jpeg_damaged_exif": jpeg(exif=b"Exif\0\0MM\0*\0\0\xff\xff"),
        "grey_jpeg": jpeg(PIL.Image.fromarray(grey)),
        "png": _saved(colour, "PNG"),
        "png_alpha": _saved(hole, "PNG"),
        "png_palette": _saved(_palette(False), "PNG"),
        "png_palette_transparent": _saved(_palette(True), "PNG", transparency=3),
        "png_palette_alpha": _saved(_palette(True), "PNG", transparency=b"\xff\xff\xff\0"),
        "png_colour_key": png(HEIGHT, WIDTH, 8, 2, keyed.tobytes(), [(b"tRNS", struct.pack(">HHH", 1, 2, 3))]),
        "png_16_bit": png(HEIGHT, WIDTH, 16, 2, _pixels16(colour)),
        "png_16_bit_alpha": png(HEIGHT, WIDTH, 16, 6, _pixels16(hole[:, :, :3], hole_alpha)),
        "png_16_bit_colour_key": png(
            HEIGHT, WIDTH, 16, 2, _pixels16(keyed), [(b"tRNS", struct.pack(">HHH", 257, 514, 771))]
        ),
        "png_exif_6": _saved(_turned(6), "PNG", exif=_exif(6)),
        "png_animated": _saved(colour, "PNG", save_all=True, append_images=frames),
        "png_much_text": png(HEIGHT, WIDTH, 8, 2, colour.tobytes(), [(b"tEXt", b"note\0" + b"x" * 500_000)]),
        # Both inflate a thousandfold, were they inflated; metadata does not make an image worse.
        "png_text_bomb": _png_with(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 2**20), 80),
        "png_profile_bomb": _png_with(b"iCCP", b"name\0\0" + zlib.compress(b"x" * 2**20), 2000),
        "grey_png_16_bit": png(HEIGHT, WIDTH, 16, 0, _pixels16(grey)),
        "grey_png_16_bit_alpha": png(HEIGHT, WIDTH, 16, 4, _pixels16(grey, hole_alpha)),
        "grey_png_16_bit_key": png(HEIGHT, WIDTH, 16, 0, grey_keyed.tobytes(), [(b"tRNS", struct.pack(">H", 12345))]),
        "grey_png_alpha": _saved(PIL.Image.fromarray(np.dstack([grey, hole_alpha]), "LA"), "PNG"),
        "gif": _saved(_palette(False), "GIF"),
        "gif_transparent": _saved(_palette(True), "GIF", transparency=3),
        "gif_animated": _saved(_palette(False), "GIF", save_all=True, append_images=frames),
        "webp": _saved(colour, "WEBP", lossless=True),
        "webp_lossy": _saved(colour, "WEBP", quality=98),
        "webp_alpha": _saved(hole, "WEBP", lossless=True, exact=True),
        "webp_animated": _saved(colour, "WEBP", save_all=True, append_images=frames, lossless=True),
        "webp_exif_8": _saved(_turned(8), "WEBP", lossless=True, exif=_exif(8)),
    }
    found |= {f"jpeg_exif_{number}": jpeg(_turned(number), exif=_exif(number)) for number in range(1, 9)}
    return found


def _webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """A GIF of a screen and a frame, (width, height), whose pixels end at once."""
    return (
        b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
        b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00;"
    )  # fmt: skip


def bombs() -> dict[str, bytes]:
    """Small files that declare, and most of which hold, far more pixels than any photograph."""
    square = zlib.compress(b"\0" * (30_000 * 3751))  # 30,000 rows of 30,000 one bit pixels
    sides = jpeg().replace(struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", 65_500, 65_500))
    canvas = struct.pack("<I", 0) + (16_000_000 - 1).to_bytes(3, "little") + (250 - 1).to_bytes(3, "little")
    wide = b"\x2f" + struct.pack("<I", (16_383 - 1) | (16_383 - 1) << 14)
    lossy = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383)
    return {
        "bomb_png_square": png_of(30_000, 30_000, 1, 0, square),
        "bomb_png_rgba_16_bit": png_of(30_000, 30_000, 16, 6, zlib.compress(b"\0" * 2**20)),
        "bomb_png_long_side": png_of(1, 60_000, 8, 0, zlib.compress(b"\0" * 60_001)),
        "bomb_png_animated": png_of(30_000, 30_000, 8, 2, b"", [(b"acTL", struct.pack(">II", 2**31, 0))]),
        "bomb_jpeg": sides,
        "bomb_gif_screen": _gif((65_535, 65_535), (1, 1)),
        "bomb_gif_frame": _gif((8, 8), (65_535, 65_535)),
        "bomb_webp_canvas": _webp(b"VP8X", canvas) + b"\0" * 64,
        "bomb_webp_lossless": _webp(b"VP8L", wide + b"\0" * 64),
        "bomb_webp_lossy": _webp(b"VP8 ", lossy + b"\0" * 64),
    }


def hostile_images() -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, the reason code that they must fail for)."""
    colour = scene()
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    whole_jpeg, whole_png, whole_webp = jpeg(noise), _saved(noise, "PNG"), _saved(noise, "WEBP", lossless=True)
    s3_error = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Key>a.jpg</Key></Error>'
    bad_pixels = bytearray(zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise)))
    bad_pixels[200:240] = b"\xff" * 40
    found = {
        "empty": (b"", "empty"),
        "html_page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "html_not_image"),
        "html_after_mark_and_space": (b"\xef\xbb\xbf \r\n<HTML><head></head></HTML>", "html_not_image"),
        "html_utf_16": ("\ufeff<html><body>no</body></html>".encode("utf-16-le"), "html_not_image"),
        "xhtml_page": (b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "x"><html/>', "html_not_image"),
        "xml_error": (s3_error, "xml_error_document"),
        "xml_error_bare": (b"<Error><Code>NoSuchKey</Code></Error>", "xml_error_document"),
        "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
        "svg_bare": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>', "not_an_image"),
        "json": (b'{"error": {"code": 403}}', "not_an_image"),
        "text": (b"see attachment", "not_an_image"),
        "noise": (np.random.default_rng(1).bytes(4096), "not_an_image"),
        "zeros": (b"\0" * 5000, "not_an_image"),
        "white_space": (b" \r\n\t" * 100, "not_an_image"),
        "tiff": (_saved(colour, "TIFF"), "not_an_image"),
        "bmp": (_saved(colour, "BMP"), "not_an_image"),
        "avif": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + b"\0" * 40, "not_an_image"),
        "pdf": (b"%PDF-1.7\n", "not_an_image"),
        "gzip": (zlib.compress(whole_png, wbits=31), "not_an_image"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        "lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "not_an_image"),
        "jpeg_half": (whole_jpeg[: len(whole_jpeg) // 2], "damaged_image"),
        "jpeg_head_only": (whole_jpeg[:20], "damaged_image"),
        "jpeg_magic_only": (b"\xff\xd8\xff", "damaged_image"),
        "png_half": (whole_png[: len(whole_png) // 2], "damaged_image"),
        "png_magic_only": (b"\x89PNG\r\n\x1a\n", "damaged_image"),
        "png_header_only": (whole_png[:33], "damaged_image"),
        "png_header_checksum": (whole_png[:29] + b"\0\0\0\0" + whole_png[33:], "damaged_image"),
        "png_no_pixels": (png_of(HEIGHT, WIDTH, 8, 2, zlib.compress(b"")), "damaged_image"),
        "png_bad_pixels": (png_of(HEIGHT, WIDTH, 8, 2, bytes(bad_pixels)), "damaged_image"),
        "png_zero_width": (png_of(5, 0, 8, 2, zlib.compress(b"\0" * 5)), "damaged_image"),
        "png_chunk_flood": (_png_with(b"prVt", b"", 100_000), "damaged_image"),
        "gif_no_frame": (b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";", "damaged_image"),
        "gif_magic_only": (b"GIF89a", "damaged_image"),
        "gif_cut": (_gif((8, 8), (8, 8))[:26], "damaged_image"),
        "webp_half": (whole_webp[: len(whole_webp) // 2], "damaged_image"),
        "webp_head_only": (whole_webp[:24], "damaged_image"),
        "webp_other_kind": (_webp(b"ABCD", b"\0" * 40), "damaged_image"),
    }
    return found | {name: (data, "image_too_large") for name, data in bombs().items()}


def _png_with(name: bytes, content: bytes, count: int) -> bytes:
    """The scene as a PNG with ``count`` equal chunks before the pixels."""
    return png(HEIGHT, WIDTH, 8, 2, scene().tobytes(), [(name, content)] * count)


def hostile_addresses(root: Path, canary: Path, port: int) -> list[str]:
    """Addresses of which none may read ``canary``, a file outside of ``root``, or reach a server at ``port``.

    ``root`` is a folder that may be read; links, a pipe and a file of another's are laid into it. An address may be
    refused, or name nothing: what counts is that nothing outside is read.
    """
    (root / "link.jpg").symlink_to(canary)
    (root / "folder_link").symlink_to(canary.parent)
    (root / "chained_link").symlink_to(root / "folder_link")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe.jpg")
    up = os.path.relpath(canary, root)
    parts = up.split("/")
    local = [
        str(canary),
        f"/{canary}",
        f"/.{canary}",
        f"{root}/{up}",
        f"{root}/./{up}",
        f"{root}/x/../{up}",
        f"{root}//{up}",
        up,
        "/".join(["%2e%2e" if part == ".." else part for part in parts]),
        f"{root}/" + "/".join(["%2e%2e" if part == ".." else part for part in parts]),
        f"{root}/" + "/".join(["%252e%252e" if part == ".." else part for part in parts]),
        f"{root}/" + "%2f".join(parts),
        f"{root}/" + "\\".join(parts),
        f"file://{root}/" + "/".join([".%2E" if part == ".." else part for part in parts]),
        f"file://{canary}",
        f"FILE://{canary}",
        f"file://localhost{canary}",
        f"file://127.0.0.1{canary}",
        f"file://{'%2f'.join(str(canary).split('/'))}",
        f"file:{canary}",
        f"file:///proc/self/root{canary}",
        f"local://{canary}",
        f"/proc/self/root{canary}",
        f"/proc/self/cwd/{os.path.relpath(canary)}",
        f"{root}/link.jpg",
        f"{root}/folder_link/{canary.name}",
        f"{root}/chained_link/{canary.name}",
        f"file://{root}/link.jpg",
        f"{root}/loop",
        f"{root}/pipe.jpg",
        str(root),
        f"{root}/",
        f"{root}/*",
        f"{canary}\0.jpg",
        f"{root}/\0{canary}",
        f"{canary}\n",
        f"{canary}%00.jpg",
        f"~/{canary}",
        f"{root}/\ud800.jpg",
        f"{root}/{'x' * 5000}",
        f"{root}/{'a/' * 3000}",
        f"{root}-sibling/{canary.name}",
        "/dev/zero",
        "/dev/stdin",
        "/dev/fd/0",
        "/proc/self/environ",
        "/proc/self/mem",
        "/etc/passwd",
        "",
        " ",
    ]
    chains = [
        f"simplecache::file://{canary}",
        f"filecache::http://127.0.0.1:{port}/a.jpg",
        f"zip://a.jpg::file://{canary}",
        f"blockcache::{canary}",
        f"s3://bucket/key::file://{canary}",
        f"reference://::{canary}",
        f"dir::file://{canary.parent}",
    ]
    hosts = [
        "127.0.0.1",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "127.255.255.254",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[::1%25lo]",
        "\uff11\uff12\uff17.0.0.1",
        "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
        "user:secret@127.0.0.1",
        "example.com@127.0.0.1",
        "127.0.0.1:80@127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "[fe80::1]",
        "[fd00::1]",
    ]
    web = [f"{scheme}://{host}:{port}/a.jpg" for host in hosts for scheme in ("http", "https")] + [
        f"HTTP://127.0.0.1:{port}/a.jpg",
        f"http:/127.0.0.1:{port}/a.jpg",
        f"http:127.0.0.1:{port}/a.jpg",
        f"http:///127.0.0.1:{port}/a.jpg",
        f"//127.0.0.1:{port}/a.jpg",
        f" http://127.0.0.1:{port}/a.jpg",
        f"\thttp://127.0.0.1:{port}/a.jpg",
        f"ht\ntp://127.0.0.1:{port}/a.jpg",
        f"http://127.0.0.1:{port}\\@example.com/a.jpg",
        f"http://127.0.0.1:{port}/a.jpg\r\nX-Injected: 1",
        f"http://127.0.0.1:{port}/%0d%0aX-Injected:%201",
        f"http://127.0.0.1:{port}0000/a.jpg",
        "http://",
        "http://[",
        "http://]:80/",
    ]
    schemes = ["ftp", "sftp", "ssh", "smb", "webhdfs", "hdfs", "github", "git", "dask", "jupyter", "generic", "gopher"]
    other = [f"{scheme}://127.0.0.1:{port}/a.jpg" for scheme in (*schemes, "s3", "gs", "abfs", "unknown")] + [
        f"memory://{canary}",
        f"data:image/png;base64,{canary}",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://user:secret@bucket/key",
        "s3://bucket/../other/key",
        "s3://bucket/%2e%2e/other/key",
        "gs://bucket/a/../../other/key",
        f"s3://bucket/key\0{canary}",
    ]
    return local + chains + web + other
