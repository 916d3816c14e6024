"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): the chunks of a stream as text.

========= ====================== ==========================================================================
event     id                     data
========= ====================== ==========================================================================
(none)    that of the chunk      its JSON text
``bytes`` that of the chunk      a chunk of raw bytes, in base64
``reset`` where reading stands   ``{"index": n}``: chunks with this index or a higher one do not count any
                                 more; what follows begins with it
``end``   –                      ``{}``: the stream is closed, or its run has ended; nothing follows
========= ====================== ==========================================================================
"""

from __future__ import annotations

import base64
import json
from typing import Final

from everstep.runtime.stream_reading import ChunkData, Item

MEDIA_TYPE: Final = "text/event-stream"
ALIVE: Final = b": still here\n\n"
END: Final = b"event: end\ndata: {}\n\n"


def retry(milliseconds: int) -> bytes:
    """After how long a client is to come back when the connection has ended."""
    return b"retry: %d\n\n" % milliseconds


def event(item: Item) -> bytes:
    """A chunk or a reset."""
    kind = ""
    if not isinstance(item, ChunkData):
        kind, data = "reset", json.dumps({"index": item.index})
    elif item.raw:
        kind, data = "bytes", base64.b64encode(item.data).decode()
    else:
        data = item.data.decode()
    lines = [f"event: {kind}"] if kind else []
    lines += [f"data: {line}" for line in data.split("\n")]
    return "\n".join([f"id: {item.id}", *lines, "", ""]).encode()
