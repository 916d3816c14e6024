"""Read what steps write to streams while they run.

Where answers are sent while they are written (`Served.live`), a reader stays until the stream ends. Elsewhere, as
behind Lambda, it is held until there is a chunk or the time is up, gets what there is, and comes back with the id of
the last chunk. Either way no chunk is lost and none comes twice, however often the connection breaks.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Header, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from everstep.core.streams import MAX_CHUNK_BYTES, check_name
from everstep.errors import EverstepError, StoreBusyError
from everstep.runtime.stream_reading import (
    ChunkData,
    Item,
    StreamReader,
    has_ended,
    list_streams,
    stream_info,
)
from everstep.web import models, sse
from everstep.web.problems import problems, refusing
from everstep.web.serving import RunId, Served

logger: Final = logging.getLogger("everstep.web")

ALIVE_SECONDS: Final = 15.0
"""After so long without a chunk a reader that is connected is told that the server is still there."""
PAGE_ITEMS: Final = 1000
MOST_BUSY: Final = 10
"""How often in a row a store may be busy before a reader is sent away, to come back."""
RETRY_LIVE: Final = 1000
"""Milliseconds until a client comes back whose connection broke."""
RETRY_HELD: Final = 100
"""As long as that where each answer ends by itself."""
_MOST: Final = 1 << 40

Name = Annotated[str, Path(description="The stream's namespace; `main` for the one that has none.")]
StartIndex = Annotated[
    int,
    Query(
        ge=-(1 << 40),
        le=1 << 40,
        description="Index to begin with; a negative one counts from the tail (-1: the last).",
    ),
]
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="Go on after the chunk with this id, whatever `start_index` says."),
]
_BYTES_HEADERS: Final = {
    "Stream-Last-Id": "Go on after it, with `Last-Event-ID`. Not where the answer is sent while it is written.",
    "Stream-Done": "`true` when nothing follows. Not where the answer is sent while it is written.",
    "Stream-Reset": "The index from which on what was read before does not count any more.",
}


def routes(served: Served) -> APIRouter:
    router = APIRouter(tags=["streams"])
    backend = served.connection.backend

    @router.get(
        "/v1/runs/{run_id}/streams",
        summary="List streams",
        response_model=models.StreamList,
        responses=problems(404),
    )
    def list_run_streams(run_id: RunId) -> models.StreamList:
        """Those of this very run, also where it went on as another; so for all that is asked about streams."""
        run = served.run(run_id, follow=False)
        return models.StreamList(run_id=run.run_id, streams=list_streams(backend, run.run_id))

    @router.get(
        "/v1/runs/{run_id}/streams/{name:path}/events",
        summary="Read a stream as events",
        response_class=Response,
        responses={
            200: {
                "description": "Server-sent events, one for each chunk, with its id.",
                "content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}},
            },
            204: {"description": "Nothing follows after this id. A client need not come back."},
            **problems(404),
        },
    )
    async def read_events(
        run_id: RunId, name: Name, start_index: StartIndex = 0, last_event_id: LastEventId = None
    ) -> Response:
        """The data of an event is the chunk's JSON text; of an event `bytes`, raw bytes in base64.

        An event `reset` says that chunks from an index on do not count any more, because their step is tried again.
        An event `end` is the last one.
        """
        follower = await _open(served, run_id, name, start_index, last_event_id)
        first = await follower.read()
        if follower.done and not first:
            return Response(status_code=204)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(served, follower, first), media_type=sse.MEDIA_TYPE, headers=headers)

    @router.get(
        "/v1/runs/{run_id}/streams/{name:path}/bytes",
        summary="Read a stream as bytes",
        response_class=Response,
        responses={
            200: {
                "description": "The chunks, one after the other: bytes as they were written, values as JSON text.",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
                "headers": {
                    header: {"description": text, "schema": {"type": "string"}}
                    for header, text in _BYTES_HEADERS.items()
                },
            },
            **problems(404),
        },
    )
    async def read_bytes(
        run_id: RunId, name: Name, start_index: StartIndex = 0, last_event_id: LastEventId = None
    ) -> Response:
        """Where nothing can be sent while it is written, the headers say how to go on."""
        follower = await _open(served, run_id, name, start_index, last_event_id)
        first = await follower.read()
        if served.live:
            return StreamingResponse(_chunks(served, follower, first), media_type="application/octet-stream")
        items = first or await follower.wait(served.hold)
        headers = {"Stream-Last-Id": follower.last_id, "Stream-Done": "true" if follower.done else "false"}
        resets = [item.index for item in items if not isinstance(item, ChunkData)]
        if resets:
            headers["Stream-Reset"] = str(min(resets))
        content = b"".join(item.data for item in items if isinstance(item, ChunkData))
        return Response(content, media_type="application/octet-stream", headers=headers)

    @router.get(
        "/v1/runs/{run_id}/streams/{name:path}",
        summary="Get a stream's state",
        response_model=models.StreamInfo,
        responses=problems(404),
    )
    def get_stream(run_id: RunId, name: Name) -> models.StreamInfo:
        """One that nobody has written to yet is empty."""
        run = served.run(run_id, follow=False)
        info = stream_info(backend, run.run_id, _checked(name))
        return models.StreamInfo(name=info.name, tail_index=info.tail_index, closed=info.closed)

    return router


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


async def _open(served: Served, run_id: str, name: str, start: int, after: str | None) -> Follower:
    run = await run_in_threadpool(served.run, run_id, follow=False)
    with refusing():
        reader = StreamReader(
            served.connection.backend.streams, run.run_id, _checked(name), start=start, after=after or None
        )
        await run_in_threadpool(reader.open)
    return Follower(served, reader, run.run_id)


class Follower:
    """Reads a stream as its run goes on.

    Attributes:
        done: nothing follows.
        last_id: after which to go on.
    """

    def __init__(self, served: Served, reader: StreamReader, run_id: str) -> None:
        self.done = False
        self.last_id = reader.last_id(())
        self._served = served
        self._backend = served.connection.backend
        self._reader = reader
        self._run_id = run_id

    async def read(self) -> list[Item]:
        """What there is and was not read, or as much of it as one answer can hold."""
        return await run_in_threadpool(self._read)

    def _read(self) -> list[Item]:
        items = self._reader.read(PAGE_ITEMS, max_bytes=MAX_CHUNK_BYTES)
        if not items and not self._reader.done and has_ended(self._backend, self._run_id, exists=True):
            items = self._reader.read(PAGE_ITEMS, max_bytes=MAX_CHUNK_BYTES)  # what came before the run ended
            self.done = not items
        self.done = self.done or self._reader.done
        self.last_id = items[-1].id if items else self.last_id
        return items

    async def wait(self, seconds: float) -> list[Item]:
        """What comes next; nothing if the time is up before, or if nothing follows."""
        busy = 0
        async for _ in self._served.moments(seconds):
            try:
                items = await self.read()
            except StoreBusyError:
                busy += 1
                if busy == MOST_BUSY:
                    raise
            else:
                busy = 0
                if items or self.done:
                    return items
        return []


async def _events(served: Served, follower: Follower, first: list[Item]) -> AsyncIterator[bytes]:
    yield sse.retry(RETRY_LIVE if served.live else RETRY_HELD)
    try:
        if served.live:
            async for items in _pages(served, follower, first):
                yield b"".join(map(sse.event, items)) or sse.ALIVE
        else:
            yield b"".join(map(sse.event, first or await follower.wait(served.hold)))
    except EverstepError as error:  # the answer has begun: the client comes back, and is told
        logger.warning("a reader of a stream is sent away: %s", error)
        return
    if follower.done:
        yield sse.END


async def _chunks(served: Served, follower: Follower, first: list[Item]) -> AsyncIterator[bytes]:
    last = -1
    async for items in _pages(served, follower, first):
        for item in items:
            if isinstance(item, ChunkData) and item.position > last:
                last = item.position
                yield item.data


async def _pages(served: Served, follower: Follower, first: list[Item]) -> AsyncIterator[list[Item]]:
    """All that follows until the end, and nothing now and then."""
    yield first
    while not follower.done and not served.stopping():
        yield await follower.wait(ALIVE_SECONDS)
