"""A reader of server-sent events as the standard has it, that loses its connection as often as one likes.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import base64
import json
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Event:
    """One event."""

    kind: str
    data: str
    last_id: str


class Parser:
    """Bytes in, events out. Of an event that was not received to its end nothing comes."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry: int | None = None
        self._rest = b""
        self._kind = ""
        self._data: list[str] = []
        self._id = last_id

    def feed(self, received: bytes) -> Iterator[Event]:
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            yield from self._line(line.rstrip(b"\r").decode())

    def _line(self, line: str) -> Iterator[Event]:
        if not line:
            self.last_id = self._id
            if self._data:
                yield Event(self._kind or "message", "\n".join(self._data), self.last_id)
            self._kind, self._data = "", []
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._kind = value
            case "id":
                self._id = value
            case "retry":
                self.retry = int(value)
            case _:  # a comment
                pass


@dataclass
class Reader:
    """Reads a stream to its end, over as many connections as it takes.

    Args:
        chance: when to cut the connection off; None for never.

    Attributes:
        chunks: what counts, in order.
        seen: ids, as they came.
        connections: how many were made.
    """

    port: int
    path: str
    token: str
    chance: random.Random | None = None
    chunks: list[Any] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    resets: int = 0
    connections: int = 0
    last_id: str = ""
    ended: bool = False

    def read(self, most: int = 2000) -> list[Any]:
        """Read to the end. It comes back at once, whatever the server advises."""
        while not self.ended:
            assert self.connections < most, "it does not end"
            self._connect()
        return self.chunks

    def _connect(self) -> None:
        self.connections += 1
        left = None if self.chance is None else self.chance.choice([0, 1, 150, 400, 900, 3000])
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            again = f"Last-Event-ID: {self.last_id}\r\n" if self.last_id else ""
            connection.sendall(
                f"GET {self.path} HTTP/1.0\r\nAuthorization: Bearer {self.token}\r\n"
                f"Accept: text/event-stream\r\n{again}\r\n".encode()
            )
            file = connection.makefile("rb")
            status = int(file.readline().split()[1])
            while file.readline().strip():
                pass
            if status == 204:
                self.ended = True
                return
            assert status == 200, file.read()
            parser = Parser(self.last_id)
            while received := file.read1(1 if left is not None and left < 10 else 4096):
                if left is not None:
                    received = received[:left]
                    left -= len(received)
                for event in parser.feed(received):
                    self._take(event)
                if left == 0 or self.ended:
                    return  # the connection is lost, in the midst of an event or not

    def _take(self, event: Event) -> None:
        self.last_id = event.last_id
        match event.kind:
            case "end":
                self.ended = True
                return
            case "reset":
                self.resets += 1
                del self.chunks[json.loads(event.data)["index"] :]
                return
            case "bytes":
                value: Any = base64.b64decode(event.data)
            case "message":
                value = json.loads(event.data)
            case _:
                raise AssertionError(event)
        index = int(event.last_id.partition(".")[0])
        assert index == len(self.chunks), f"chunk {index} came when {len(self.chunks)} was to come"
        self.seen.append(event.last_id)
        self.chunks.append(value)
