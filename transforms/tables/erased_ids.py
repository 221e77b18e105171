"""The ids that an erasure is given: every form in which tables name them, and how texts are masked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from transforms import storage
from transforms.core.errors import UsageError
from transforms.core.messages import quoted
from transforms.core.name_redaction import NameRedactor
from transforms.inputs.rows import public

MAX_REASON = 500
"""Characters."""

_SHORTEST_PART = 4
"""Characters of an id that a reason may not hold even within a word."""


@dataclass(frozen=True)
class Ids:
    """The ids to erase: as they were given and, where one is an address, as it stands in tables."""

    given: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.given:
            raise UsageError("no id is given; name one with --id, or a file of ids with --ids")
        for text in self.given:
            if not text or text.isspace():
                raise UsageError("an id is empty; give it as it stands in the tables")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UsageError("an id is not UTF-8 text; give it as it stands in the tables") from None

    @cached_property
    def forms(self) -> frozenset[str]:
        """Texts of cells that name one of them."""
        return frozenset(form for text in self.given for form in (text, public(text)))

    @cached_property
    def words(self) -> NameRedactor:
        """What names one of them in a message, where ids are quoted, escaped, redacted and cut."""
        made = {form for text in self.forms for form in (text, repr(text)[1:-1], storage.shown(text))}
        made |= {storage.redact(text) for text in self.forms}
        made |= {mention[1:-1] for text in self.forms if (mention := quoted(text)).startswith(("'", '"'))}
        return NameRedactor(name for name in made if name in self.forms or name.strip("*. "))

    def check_reason(self, reason: str) -> str:
        """``reason`` as it may stand in a table; UsageError where it names an id, or is no short line of text."""
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise UsageError(f"--reason is one line of at most {MAX_REASON} characters")
        folded = reason.casefold()
        parts = (form.casefold() for form in self.forms if len(form) >= _SHORTEST_PART)
        if self.words.hide(reason) != reason or any(part in folded for part in parts):
            raise UsageError("--reason names an id that is to be erased, and it would stay; say why without it")
        return storage.redact(reason)
