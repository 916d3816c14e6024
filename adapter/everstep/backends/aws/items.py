"""The layout of the table: keys, and attribute values as DynamoDB's protocol has them.

A run is one partition, ``pk`` = ``run#<run id>``. Its items, in the order in which a Query reads them:

====================== =======================================================================================
``sk``                 what
====================== =======================================================================================
``cancel#<op>``        nobody waits for the step any more
``claim#<op>#<n>``     somebody has claimed attempt n at operation op
``failed#<op>#<n>``    a failed attempt, for people
``flag``               the wake flag
``pub#<name>``         a published value
``stream#<name>``      the run has this stream, which is a partition of its own (`stream_store`)
``turn#<8 digits>``    a turn
``zin#<key>``          an inbox entry
``zrun``               the run record
====================== =======================================================================================

A hook's token has a partition of its own: ``pk`` = ``hook#<token>``, ``sk`` = ``hook``.

The record comes last, so that one Query with a lower bound reads what is new in a run together with its record and
inbox, however long its history is, and never what stands before the turns. (With the record before the turns a delta
read would be two requests, or would read the whole history again.)
"""

from __future__ import annotations

import hashlib
import zlib
from datetime import datetime
from typing import Any, Final, TypeAlias

from everstep.core.durations import to_datetime
from everstep.core.history import Micros

Value: TypeAlias = dict[str, Any]
"""An attribute value: ``{"S": text}``, ``{"N": digits}`` or ``{"B": bytes}``."""
Item: TypeAlias = dict[str, Value]

RECORD: Final = "zrun"
FLAG: Final = "flag"
TURNS: Final = "turn#"
INBOX: Final = "zin#"
FAILED: Final = "failed#"
CLAIMS: Final = "claim#"
CANCELS: Final = "cancel#"
PUBLISHED: Final = "pub#"
HOOK: Final = "hook"
HOOK_PARTITION: Final = "hook#"
STREAMS: Final = "stream#"
PARTITION: Final = "run#"

SHARDS: Final = 4
"""Of an index partition: 1,000 writes a second each."""
LAST_TURN: Final = 99_999_999
_LONGEST_KEY: Final = 900  # bytes; a sort key may have 1,024


def s(text: str) -> Value:
    return {"S": text}


def n(number: int) -> Value:
    return {"N": str(number)}


def number_in(item: Item, name: str) -> int | None:
    value = item.get(name)
    return None if value is None else int(value["N"])


def text_in(item: Item, name: str) -> str | None:
    value = item.get(name)
    return None if value is None else str(value["S"])


def valid(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate, as in a path that is not UTF-8, becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


# --- keys ------------------------------------------------------------------------------------------


def partition(run_id: str) -> Value:
    return s(PARTITION + run_id)


def key(run_id: str, sk: str) -> Item:
    return {"pk": partition(run_id), "sk": s(sk)}


def turn_key(number: int) -> str:
    return f"{TURNS}{min(number, LAST_TURN):08d}"


def inbox_key(entry: str) -> str:
    """The sort key of an inbox entry; a key too long for one is replaced by its digest."""
    return INBOX + _short(valid(entry))


def failed_key(op: int, attempt: int) -> str:
    return f"{FAILED}{op}#{attempt}"


def claim_key(op: int, attempt: int) -> str:
    return f"{CLAIMS}{op}#{attempt}"


def cancel_key(op: int) -> str:
    return f"{CANCELS}{op}"


def published_key(name: str) -> str:
    return PUBLISHED + _short(valid(name))


def hook_key(token: str) -> Item:
    return {"pk": s(HOOK_PARTITION + _short(valid(token))), "sk": s(HOOK)}


def _short(text: str) -> str:
    data = text.encode()
    return text if len(data) <= _LONGEST_KEY else "sha256:" + hashlib.sha256(data).hexdigest()


# --- index keys ------------------------------------------------------------------------------------


def shard(run_id: str) -> int:
    return zlib.crc32(run_id.encode()) % SHARDS


def moment(at: Micros) -> str:
    """Sorts as the number does."""
    return f"{max(at, 0):017d}"


def day_of(at: Micros) -> datetime:
    return to_datetime(at).replace(hour=0, minute=0, second=0, microsecond=0)


def day_partition(day: datetime, number: int) -> str:
    return f"{day:%Y-%m-%d}#{number}"


def list_keys(run_id: str, created_at: Micros) -> Item:
    return {
        "list_pk": s(day_partition(day_of(created_at), shard(run_id))),
        "list_sk": s(f"{moment(created_at)}#{run_id}"),
    }


def parked_partition(number: int) -> str:
    return f"parked#{number}"


def build_mark(build: str) -> str:
    """Stands for a build in a key: 16 hexadecimal characters, whatever people call their builds."""
    return hashlib.blake2b(valid(build).encode(), digest_size=8).hexdigest()


def parked_keys(run_id: str, at: Micros, build: str) -> Item:
    return {
        "parked_pk": s(parked_partition(shard(run_id))),
        "parked_sk": s(f"{moment(at)}#{run_id}#{build_mark(build)}"),
    }
