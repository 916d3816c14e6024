"""DynamoDB's arithmetic: sizes of items, and the request units of reads and writes.

Sources, in the DynamoDB developer guide: "DynamoDB item sizes and formats" (sizes), "DynamoDB read and write
operations" (units, what a failed condition costs), "Using Global Secondary Indexes", section on provisioned throughput
(index writes). Items are as botocore's low-level client has them: ``{"pk": {"S": "run#1"}, …}``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Item: TypeAlias = Mapping[str, Mapping[str, Any]]

WRITE_UNIT: Final = 1024
READ_UNIT: Final = 4096
STORAGE_OVERHEAD: Final = 100
"""Bytes that are billed as storage for every item beside its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A global secondary index with the projection KEYS_ONLY.

    Attributes:
        keys: its own key attributes.
        table_keys: those of the table, which every index entry holds too.
    """

    name: str
    keys: tuple[str, ...]
    table_keys: tuple[str, ...]

    def entry(self, item: Item | None) -> dict[str, Mapping[str, Any]] | None:
        """What the index holds of an item; nothing unless the item has all of the index's keys."""
        if item is None or any(key not in item for key in self.keys):
            return None
        return {key: item[key] for key in (*self.table_keys, *self.keys)}


def item_size(item: Item) -> int:
    """Bytes: the names of the attributes in UTF-8, and their values."""
    return sum(len(name.encode()) + value_size(value) for name, value in item.items())


def value_size(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return number_size(content)
        case "B":
            return len(content)
        case "BOOL" | "NULL":
            return 1
        case "SS":
            return sum(len(each.encode()) for each in content)
        case "NS":
            return sum(number_size(each) for each in content)
        case "BS":
            return sum(len(each) for each in content)
        case "L":
            return 3 + sum(1 + value_size(each) for each in content)
        case "M":
            return 3 + sum(1 + len(name.encode()) + value_size(each) for name, each in content.items())
        case _:
            raise ValueError(f"unknown attribute type {kind!r}")


def number_size(text: str) -> int:
    """About one byte for two significant digits, and one more; a sign takes another. AWS gives no exact rule."""
    mantissa, _, _ = text.strip().lower().partition("e")
    digits = mantissa.lstrip("+-").replace(".", "").strip("0")
    return math.ceil(len(digits) / 2) + 1 + mantissa.startswith("-")


def write_units(*sizes: int, transactional: bool = False) -> int:
    """Of one write, from the sizes of the item before and after: the larger counts, and at least one unit."""
    units = max(1, math.ceil(max(sizes, default=0) / WRITE_UNIT))
    return units * 2 if transactional else units


def read_units(size: int, *, consistent: bool, transactional: bool = False) -> float:
    """Of one read: of an item (``GetItem``), or of the sum of what was looked at (``Query``). At least one block."""
    blocks = max(1, math.ceil(size / READ_UNIT))
    if transactional:
        return blocks * 2.0
    return float(blocks) if consistent else blocks / 2


def index_write_units(index: Index, before: Item | None, after: Item | None, *, transactional: bool = False) -> int:
    """What a write of the table costs in one index.

    Nothing if the entry does not change; one write if it appears or goes; two, a delete and a put, if its keys change.
    """
    old, new = index.entry(before), index.entry(after)
    if old == new:
        return 0
    entries = [each for each in (old, new) if each is not None]
    return sum(write_units(item_size(each), transactional=transactional) for each in entries)


def table_and_index_units(
    indexes: Sequence[Index], before: Item | None, after: Item | None, *, transactional: bool = False
) -> tuple[int, int]:
    """Write units of one write that happened: in the table, and in all indexes together."""
    sizes = [item_size(each) for each in (before, after) if each is not None]
    of_indexes = sum(index_write_units(index, before, after, transactional=transactional) for index in indexes)
    return write_units(*sizes, transactional=transactional), of_indexes


def stored_bytes(items: Iterable[Item], indexes: Sequence[Index] = ()) -> int:
    """Bytes that are billed as storage, index entries included."""
    total = 0
    for item in items:
        total += item_size(item) + STORAGE_OVERHEAD
        total += sum(item_size(entry) + STORAGE_OVERHEAD for index in indexes if (entry := index.entry(item)))
    return total
