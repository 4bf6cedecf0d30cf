"""One thread at a time: what two threads would do to one memory at once cannot be told apart afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from edge_cnnlstm.errors import ThreadError


class Guard:
    """Lets one call into an object at a time.

    As a context manager it waits for the call at hand: a step is over in milliseconds. Entering it from within is an
    error, and so is `enter_at_once` beside another thread.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._holder = 0
        self._last_call: Callable[[], None] | None = None

    def enter_at_once(self) -> None:
        """Enter, or raise ThreadError naming the thread that is inside."""
        if not self._lock.acquire(blocking=False):
            raise self._occupied()
        self._holder = threading.get_ident()

    def try_enter(self) -> bool:
        """Enter if nobody is inside; return whether it was so."""
        if not self._lock.acquire(blocking=False):
            return False
        self._holder = threading.get_ident()
        return True

    def leave(self) -> None:
        """Let the next one in."""
        self._holder = 0
        self._lock.release()
        if self._last_call is not None:
            self._call_if_at_rest()

    def at_rest(self, call: Callable[[], None]) -> None:
        """Make a call when nobody is inside: now, or when whoever is inside leaves. Safe in a signal handler."""
        self._last_call = call
        self._call_if_at_rest()

    def __enter__(self) -> None:
        if self._holder == threading.get_ident():
            raise self._occupied()
        self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def _call_if_at_rest(self) -> None:
        # Whoever is inside looks for a last call after releasing the lock, so that none is missed.
        if self.try_enter():
            try:
                call, self._last_call = self._last_call, None
                if call is not None:
                    call()
            finally:
                self._holder = 0
                self._lock.release()

    def _occupied(self) -> ThreadError:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return ThreadError(
            f"{self._what}, called from thread {threading.current_thread().name!r} while thread "
            f"{names.get(self._holder, 'unknown')!r} is in it",
            expected="one call at a time",
            fix="give each thread a stream of its own, or hand all frames to one thread; nothing was changed",
        )
