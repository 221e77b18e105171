"""Images that break others: each fails for its reason, in time, under a memory limit; odd but valid ones decode."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import hostile
from transforms.core import errors
from transforms.core.imaging import images

HOSTILE = hostile.hostile_images()
VALID = hostile.valid_images()

# Under pytest all warnings are errors, which also overrides what images.py sets for Pillow's own.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_image_fails_for_its_reason(name: str) -> None:
    data, reason = HOSTILE[name]
    with pytest.raises(errors.ImageError) as caught:
        images.decode(data)
    assert caught.value.reason == reason
    message = str(caught.value)
    assert 20 < len(message) < 300
    assert message.isascii()
    assert message.isprintable()


def outcome(data: bytes) -> str:
    """The reason that ``data`` fails for, or the hash of its pixels; anything but an ImageError is a bug."""
    try:
        image = images.decode(data)
    except errors.ImageError as error:
        return error.reason
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    return images.sha256(image.tobytes())


def assert_image_or_reason(data: bytes) -> None:
    found = outcome(data)
    assert found in errors.REASONS or len(found) == 64


def test_every_reason_of_the_decode_stage_is_met() -> None:
    reasons = {code for code, kind in errors.REASONS.items() if kind.stage == "decode"}
    assert {reason for _, reason in HOSTILE.values()} == reasons


@pytest.mark.parametrize("name", VALID)
def test_valid_image_decodes_to_the_scene(name: str) -> None:
    image = images.decode(VALID[name])
    expected = hostile.grey_scene() if name.startswith("grey") else hostile.scene()
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    # Lossy formats smear the borders between the quarters; 8 pixels off, every format is within 6 levels.
    inner = np.ones(expected.shape[:2], bool)
    inner[22:38], inner[:, 32:48] = False, False
    difference = np.abs(image.astype(int) - expected)[inner].max()
    assert difference <= (6 if "jpeg" in name or "lossy" in name else 0)


_BOMB_SCRIPT = """
import json, resource, sys, time
from tests.support import hostile
from transforms.core import errors
from transforms.core.imaging import images
bombs = hostile.bombs()
images.decode(hostile.jpeg())  # the decoders are loaded
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
limit = used + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = {}
for name, data in bombs.items():
    start = time.process_time()
    try:
        images.decode(data)
        reason = "none"
    except errors.ImageError as error:
        reason = error.reason if "not enough memory" not in str(error) else "memory"
    found[name] = (reason, time.process_time() - start, len(data))
json.dump(found, sys.stdout)
"""


def test_bombs_are_refused_at_once_under_a_memory_limit() -> None:
    """P5. 64 MiB are left, the smallest bomb would take 60 KB, the others 112 MB to 16 GB."""
    done = subprocess.run([sys.executable, "-c", _BOMB_SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(hostile.bombs())
    for name, (reason, seconds, size) in found.items():
        assert reason == "image_too_large", name
        assert seconds < 0.2, name
        assert size < 200_000, name


def test_metadata_bombs_are_not_inflated() -> None:
    """2,000 profiles of 1 MB each took Pillow 4.7 s. Without them the pixels are the same."""
    start = time.process_time()
    image = images.decode(VALID["png_profile_bomb"])
    assert time.process_time() - start < 1
    np.testing.assert_array_equal(image, hostile.scene())


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(VALID)),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
)
def test_damaged_bytes_give_an_image_or_an_image_error(name: str, cut: float, flips: list[tuple[float, int]]) -> None:
    data = bytearray(VALID[name])
    if cut < 0.5:
        del data[int(len(data) * cut * 2) :]
    for place, mask in flips:
        if data:
            data[int(len(data) * place)] ^= mask
    assert_image_or_reason(bytes(data))


HEADS = [b"", b"<", b"<?xml ", b"\xff\xd8\xff", b"GIF89a", hostile.png(1, 1, 8, 0, b"\0")[:40]]


@settings(max_examples=200, deadline=None)
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=200))
def test_any_bytes_give_an_image_or_an_image_error(head: bytes, tail: bytes) -> None:
    assert_image_or_reason(head + tail)


def test_a_decoder_s_unforeseen_error_fails_the_image_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("internal \x1b[31m state")

    monkeypatch.setattr("PIL.Image.open", broken)
    with pytest.raises(errors.DamagedImage, match=r"internal \\x1b") as caught:
        images.decode(hostile.jpeg())
    assert caught.value.__suppress_context__


def test_decoding_in_threads_gives_the_same() -> None:
    work = [(name, VALID[name]) for name in sorted(VALID)] + [(name, data) for name, (data, _) in HOSTILE.items()]

    alone = [outcome(data) for _, data in work]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(outcome, [data for _, data in work] * 3))
    assert together == alone * 3
