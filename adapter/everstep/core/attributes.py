"""The limits on a run's attributes: plain text by which people find runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from everstep.core.limits import is_unicode
from everstep.errors import AttributeValidationError

MAX_ATTRIBUTES: Final = 64
MAX_KEY_CHARACTERS: Final = 256
MAX_VALUE_BYTES: Final = 256
RESERVED: Final = "$"
"""Keys that begin with it belong to Everstep."""


def changed(attributes: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """The attributes after a change; None removes one."""
    after = {**attributes, **{key: value for key, value in changes.items() if value is not None}}
    return {key: value for key, value in after.items() if changes.get(key, "") is not None}


def check_number(attributes: Mapping[str, str]) -> None:
    """`AttributeValidationError` where there are too many; ours do not count."""
    number = sum(not key.startswith(RESERVED) for key in attributes)
    if number > MAX_ATTRIBUTES:
        raise AttributeValidationError(f"a run has at most {MAX_ATTRIBUTES} attributes, and these would make {number}")


def check_changes(changes: Mapping[str, str | None]) -> dict[str, str | None]:
    """Changes of attributes, None for one that is removed, as a dict of their own; or `AttributeValidationError`."""
    if not isinstance(changes, Mapping):
        raise AttributeValidationError(f"attributes are a mapping of text to text, not {type(changes).__name__}")
    removed = {key: "" for key, value in changes.items() if value is None}
    check_attributes({**{key: value for key, value in changes.items() if value is not None}, **removed})
    return dict(changes)


def check_attributes(attributes: Mapping[str, str], *, allow_reserved: bool = False) -> dict[str, str]:
    """The attributes as a dict of their own, or `AttributeValidationError`."""
    if not isinstance(attributes, Mapping):
        raise AttributeValidationError(f"attributes are a mapping of text to text, not {type(attributes).__name__}")
    if len(attributes) > MAX_ATTRIBUTES:
        raise AttributeValidationError(f"a run has at most {MAX_ATTRIBUTES} attributes, not {len(attributes)}")
    for key, value in attributes.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise AttributeValidationError(f"attribute {key!r}: key and value are text; got {value!r}")
        if not is_unicode(key) or not is_unicode(value):
            raise AttributeValidationError(f"attribute {key!r}: {value!r} is not valid Unicode (a lone surrogate)")
        if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
            raise AttributeValidationError(
                f"attribute key {key[:32]!r} has {len(key)} characters; allowed are 1 to {MAX_KEY_CHARACTERS}"
            )
        if key.startswith(RESERVED) and not allow_reserved:
            raise AttributeValidationError(f"attribute key {key!r} begins with {RESERVED!r}, which is reserved")
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise AttributeValidationError(f"the value of attribute {key!r} is longer than {MAX_VALUE_BYTES} bytes")
    return dict(attributes)
