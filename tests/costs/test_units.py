"""Sizes and request units, against examples of AWS's documentation and against sums made by hand."""

from __future__ import annotations

import pytest

from everstep.costs.units import (
    Index,
    index_write_units,
    item_size,
    read_units,
    stored_bytes,
    table_and_index_units,
    write_units,
)

KB = 1024
LIST = Index(name="runs-by-day", keys=("list_pk", "list_sk"), table_keys=("pk", "sk"))


def s(text):
    return {"S": text}


# --- sizes: "DynamoDB item sizes and formats" ------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"name": s("Ada")}, 4 + 3),
        ({"náme": s("Zoë")}, 5 + 4),  # UTF-8, in names too
        ({"n": {"N": "0"}}, 1 + 1),
        ({"n": {"N": "12345"}}, 1 + 3 + 1),  # a byte for two digits, and one
        ({"n": {"N": "-12345"}}, 1 + 3 + 1 + 1),
        ({"n": {"N": "1200000"}}, 1 + 1 + 1),  # zeros at the ends are trimmed
        ({"n": {"N": "0.0012"}}, 1 + 1 + 1),
        ({"n": {"N": "1.2E+9"}}, 1 + 1 + 1),
        ({"n": {"N": "12345678901234567890123456789012345678"}}, 1 + 19 + 1),
        ({"b": {"B": b"12345"}}, 1 + 5),
        ({"yes": {"BOOL": True}}, 3 + 1),
        ({"no": {"NULL": True}}, 2 + 1),
        ({"set": {"SS": ["ab", "c"]}}, 3 + 3),
        ({"set": {"NS": ["1", "12345"]}}, 3 + 2 + 4),
        ({"set": {"BS": [b"ab", b"c"]}}, 3 + 3),
        ({"l": {"L": []}}, 1 + 3),
        ({"m": {"M": {}}}, 1 + 3),
        ({"l": {"L": [s("ab"), {"NULL": True}]}}, 1 + 3 + (1 + 2) + (1 + 1)),
        ({"m": {"M": {"key": s("ab")}}}, 1 + 3 + (1 + 3 + 2)),
        ({"pk": s("run#1"), "sk": s("turn#00000001"), "body": {"B": b"x" * 100}}, 7 + 15 + 104),
    ],
)
def test_size(item, expected):
    assert item_size(item) == expected


def test_an_unknown_type_is_an_error():
    with pytest.raises(ValueError, match="X"):
        item_size({"a": {"X": "?"}})


# --- units: "DynamoDB read and write operations" ---------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "transactional", "expected"),
    [
        ((512,), False, 1),
        ((KB,), False, 1),
        ((KB + 1,), False, 2),
        ((int(1.5 * KB),), False, 2),
        ((2 * KB,), True, 4),
        ((), False, 1),  # a delete of what is not there, a condition that failed on nothing
        ((3 * KB, 500), False, 3),  # the larger of before and after
        ((500, 3 * KB), False, 3),
    ],
)
def test_write_units(sizes, transactional, expected):
    assert write_units(*sizes, transactional=transactional) == expected


@pytest.mark.parametrize(
    ("size", "consistent", "expected"),
    [
        (0, True, 1),  # nothing found is one block all the same
        (0, False, 0.5),
        (int(3.5 * KB), True, 1),
        (4 * KB, True, 1),
        (8 * KB, True, 2),
        (8 * KB, False, 1),
        (10 * KB, True, 3),
        (int(40.8 * KB), True, 11),  # AWS: a query of 40.8 KB in all is rounded up to 44 KB
        (int(40.8 * KB), False, 5.5),
    ],
)
def test_read_units(size, consistent, expected):
    assert read_units(size, consistent=consistent) == expected


def test_a_transactional_read_costs_twice():
    assert read_units(8 * KB, consistent=True, transactional=True) == 4


def test_a_batch_rounds_each_item_and_a_query_their_sum():
    """AWS: a batch of 1.5 KB and 6.5 KB is 12 KB, not 8 KB."""
    batch = read_units(int(1.5 * KB), consistent=True) + read_units(int(6.5 * KB), consistent=True)
    assert batch * 4 == 12
    assert read_units(8 * KB, consistent=True) * 4 == 8


# --- indexes: "Using Global Secondary Indexes", provisioned throughput -----------------------------

PLAIN = {"pk": s("p"), "sk": s("s"), "body": s("x" * 5000)}
LISTED = PLAIN | {"list_pk": s("d"), "list_sk": s("1")}
MOVED = LISTED | {"list_sk": s("2")}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, LISTED, 1),  # appears
        (PLAIN, LISTED, 1),
        (LISTED, MOVED, 2),  # the old entry goes, a new one comes
        (LISTED, PLAIN, 1),  # goes
        (LISTED, None, 1),
        (None, PLAIN, 0),  # never was in the index
        (PLAIN, None, 0),
        (LISTED, LISTED | {"body": s("y")}, 0),  # the index holds keys only
        (None, PLAIN | {"list_pk": s("d")}, 0),  # sparse: one of two keys is none
    ],
)
def test_index_writes(before, after, expected):
    assert index_write_units(LIST, before, after) == expected


def test_the_table_pays_for_the_item_and_the_index_for_its_keys():
    assert table_and_index_units([LIST], None, LISTED) == (5, 1)
    assert table_and_index_units([LIST], None, LISTED, transactional=True) == (10, 2)


def test_storage_has_an_overhead_for_each_item_and_entry():
    small = {"pk": s("p"), "sk": s("s"), "list_pk": s("d"), "list_sk": s("1")}
    assert item_size(small) == 3 + 3 + 8 + 8
    assert stored_bytes([small], [LIST]) == (22 + 100) * 2
    assert stored_bytes([PLAIN], [LIST]) == item_size(PLAIN) + 100
