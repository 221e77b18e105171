"""docs/notebook.md is executed, in a folder with the drawn catalogue, and prints what it says that it prints."""

from __future__ import annotations

import re
from pathlib import Path

import PIL.Image
import pytest

from pipeline import cli
from tests.support.pages import executed

PAGE = Path(__file__).parents[2] / "docs" / "notebook.md"
_NUMBER = re.compile(r"\d+\.\d+")


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")  # of libraries, on whatever versions a reader has
def test_the_page_says_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "demo"]) == 0
    printed = list(executed(PAGE))
    assert sum(said is not None for _, said, _ in printed) == 6
    for code, said, found in printed:
        # another processor's last digits are its own
        assert _NUMBER.sub("#", found) == _NUMBER.sub("#", said or ""), code
        for number, expected in zip(_NUMBER.findall(found), _NUMBER.findall(said or ""), strict=True):
            assert float(number) == pytest.approx(float(expected), abs=0.02), code
    with PIL.Image.open(tmp_path / "pairs.png") as picture:
        assert picture.width > 900
