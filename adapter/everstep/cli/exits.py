"""The exit codes, and the exception that ends a command with one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code means; the same table is in ``everstep --help`` and docs/reference/cli.md."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    PARKED = 3
    STORE = 4
    INTERNAL = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class Exit(Exception):
    """End the command with this exit code. All has been said."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__(code)
        self.code = code
