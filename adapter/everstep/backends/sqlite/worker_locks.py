"""Lock files that tell whether a worker's process still lives.

A process holds an exclusive ``flock`` on its worker's file; the kernel drops it when the process ends, however it ends.
Whoever can lock a file therefore knows that its worker is dead, and removes the file while it holds the lock. A worker
that opened the file just before sees after locking that the path no longer leads to it, and starts over. Where there is
no ``flock`` (Windows), or the file system refuses it, nothing is locked and only the lease's time counts.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final
from weakref import WeakSet

from everstep.errors import ConfigurationError

_ATTEMPTS: Final = 100
_PAUSE: Final = 0.01

if sys.platform == "win32":

    def _lock(descriptor: int) -> bool:
        raise OSError(errno.ENOTSUP, "no flock on this platform")

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Lock the open file unless somebody else has; say whether it is now ours."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@final
class WorkerLocks:
    """The lock files of one database, and those of them that this process holds. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._forget()
        _all.add(self)

    def _forget(self) -> None:
        self._held: dict[str, int] = {}
        self._mutex = threading.Lock()

    def hold(self, worker: str) -> str | None:
        """Hold the worker's lock until `release` or the end of the process.

        Returns the file's name; None where locks do not work. The same call again is harmless.
        """
        name = f"{hashlib.sha256(worker.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.lock"
        with self._mutex:
            if name in self._held:
                return name
            for _ in range(_ATTEMPTS):
                try:
                    descriptor = self._try_to_hold(self._folder / name)
                except OSError:
                    return None
                if descriptor is not None:
                    self._held[name] = descriptor
                    return name
                time.sleep(_PAUSE)  # somebody looks whether it is free, or removes it
        raise ConfigurationError(
            f"the worker id {worker!r} is in use by a living process ({self._folder / name}). "
            f"Give every worker an id of its own."
        )

    def _try_to_hold(self, file: Path) -> int | None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)  # Python's descriptors are close-on-exec
        except FileNotFoundError:
            return None  # the folder was removed in between
        try:
            if _lock(descriptor) and _leads_to(file, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def release(self, worker: str) -> None:
        """Let the lock go and remove its file, if this process holds it."""
        name = f"{hashlib.sha256(worker.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.lock"
        with self._mutex:
            descriptor = self._held.pop(name, None)
            if descriptor is None:
                return
            (self._folder / name).unlink(missing_ok=True)
            os.close(descriptor)
        self._remove_empty_folder()

    @contextmanager
    def survey(self) -> Iterator[frozenset[str] | None]:
        """The names of the lock files whose processes live; None where locks do not work.

        The locks of the dead are held until the end of the ``with`` block, so that none of them can come back while
        its messages are given away; then their files are removed.
        """
        living: set[str] = set()
        dead: list[tuple[Path, int]] = []
        works = sys.platform != "win32"
        try:
            for file in self._files():
                try:
                    descriptor = os.open(file, os.O_RDWR)
                except OSError:
                    continue  # just removed by its owner
                try:
                    free = _lock(descriptor)
                except OSError:
                    free, works = False, False
                if free and _leads_to(file, descriptor):
                    dead.append((file, descriptor))
                else:  # held, or just replaced: by somebody who lives
                    living.add(file.name)
                    os.close(descriptor)
            yield frozenset(living) if works else None
        finally:
            for file, descriptor in dead:
                file.unlink(missing_ok=True)
                os.close(descriptor)

    def close(self) -> None:
        """Let all locks go. The files stay for `survey` to find: their workers did not take leave."""
        with self._mutex:
            while self._held:
                os.close(self._held.popitem()[1])

    def _files(self) -> list[Path]:
        try:
            return [file for file in self._folder.iterdir() if file.suffix == ".lock"]
        except FileNotFoundError:
            return []

    def _remove_empty_folder(self) -> None:
        try:
            self._folder.rmdir()
        except OSError:
            pass  # others use it


def _leads_to(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# A forked child shares its parent's descriptors, and the lock with them: it must close its copies at once, or the
# parent would seem alive for as long as the child lives.

_all: WeakSet[WorkerLocks] = WeakSet()


def _after_fork_in_child() -> None:
    for locks in list(_all):
        held = locks._held
        locks._forget()
        for descriptor in held.values():
            os.close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
