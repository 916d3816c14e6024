"""What a message of the queue looks like: ASCII JSON that describes itself.

::

    {"v":1,"id":"step/wrun_…/3/1","due":1750000000000000,"root":"wrun_…","workflow":"orders","text":"[1,[\\"xs\\",…]]…"}

The message itself is the record of `everstep.codec.records`, as ``text`` where that is JSON throughout, as ``base64``
where it is not (compressed payloads), or as ``blob``, a reference to an object, where it is large. Fields may be added;
what an old reader would misread is a new version.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from everstep.codec.records import decode_message, encode_message
from everstep.core.history import Micros
from everstep.core.messages import Message, Outgoing
from everstep.errors import SerializationError
from everstep.ports import Unreadable

VERSION: Final = 1
INLINE: Final = 200_000
"""Bytes of a body. SQS takes 1,048,576 and bills each 64 KB; the input of a schedule may have 262,144."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    """What the body of a received message says.

    Attributes:
        message_id: empty when not even that can be read.
        message: `Unreadable` when this code cannot read it, as when a newer version sent it.
        due: not to be dealt with before; a message that comes earlier is to be sent on.
        body: as it was received.
    """

    message_id: str
    message: Message | Unreadable
    due: Micros
    root_id: str
    workflow: str
    body: str


def write_body(outgoing: Outgoing, store: Callable[[bytes], str]) -> str:
    """The body.

    Args:
        store: puts bytes away and returns a reference, for messages that are large.
    """
    head = {
        "v": VERSION,
        "id": outgoing.message_id,
        "due": outgoing.due,
        "root": outgoing.root_id,
        "workflow": outgoing.workflow,
    }
    data = encode_message(outgoing.message)
    if len(data) < INLINE:
        forms = [_written(head, "base64", base64.b64encode(data).decode())]
        try:
            forms.append(_written(head, "text", data.decode()))
        except UnicodeDecodeError:
            pass
        body = min(reversed(forms), key=len)
        if len(body) <= INLINE:
            return body
    return _written(head, "blob", store(data))


def read_body(body: str, fetch: Callable[[str], bytes]) -> ReceivedMessage:
    """What a body says. What cannot be read is `Unreadable`, never an error.

    Args:
        fetch: the bytes of a reference; a `SerializationError` of it makes the message unreadable, other errors pass.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not isinstance(fields.get("id"), str):
        reason = f"it is not a message of Everstep: {body[:80]!r}. Check what else sends to this queue"
        return ReceivedMessage(
            message_id="", message=Unreadable(reason=reason), due=0, root_id="", workflow="", body=body
        )
    due, root, workflow = fields.get("due"), fields.get("root"), fields.get("workflow")
    return ReceivedMessage(
        message_id=fields["id"],
        message=_message(fields, fetch),
        due=due if type(due) is int else 0,
        root_id=root if isinstance(root, str) else "",
        workflow=workflow if isinstance(workflow, str) else "",
        body=body,
    )


def _written(head: dict[str, Any], form: str, content: str) -> str:
    return json.dumps({**head, form: content}, separators=(",", ":"))


def _message(fields: dict[str, Any], fetch: Callable[[str], bytes]) -> Message | Unreadable:
    try:
        match fields:
            case {"v": int(version)} if version > VERSION:
                return Unreadable(
                    reason=f"the message has format {version}, which this version of Everstep does not know: upgrade "
                    f"everstep in this process"
                )
            case {"v": int(), "text": str(text)}:
                return decode_message(text.encode())
            case {"v": int(), "base64": str(text)}:
                return decode_message(base64.b64decode(text, validate=True))
            case {"v": int(), "blob": str(reference)}:
                return decode_message(fetch(reference))
    except (SerializationError, binascii.Error, UnicodeError) as error:
        return Unreadable(reason=str(error))
    return Unreadable(reason="the message has no content: it was sent by something else, or by a newer version")
