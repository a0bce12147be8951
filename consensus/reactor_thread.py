"""
A Twisted reactor in a thread of its own, for programs that have none.

There is one in a process, begun when it is first needed.  It is no reactor
that anybody installs: a program's own may run beside it.  It does not keep the
interpreter from exiting, and a forked process begins another one.
"""

from __future__ import annotations

import atexit
import os
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.pollreactor import PollReactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

_T = TypeVar("_T")

# How long the interpreter's exit waits for connections to be closed.
_PARTING_TIME = 1.0


class _Reactor(PollReactor):
    """A reactor that leaves alone what there is one of in a process."""

    # The thread that does a program's I/O is the one of the reactor that the
    # program has installed.
    _registerAsIOThread = False  # noqa: N815 - Twisted's name

    #: See :func:`.monotonic_clock`.
    ends_with_process = True


_new_reactor: Any = _Reactor  # which Twisted gives no types to


class ReactorThread:
    """One reactor and its thread; made by :func:`reactor_thread`."""

    def __init__(self) -> None:
        #: The reactor, for use in its own thread.
        self.reactor: Any = _new_reactor()
        # Names are looked up in threads, which must not hold up an exit either.
        pool: Any = self.reactor.getThreadPool()
        pool.threadFactory = partial(threading.Thread, daemon=True)
        self._thread = threading.Thread(
            target=self.reactor.run,
            kwargs={"installSignalHandlers": False},
            name="raft-client",
            daemon=True,
        )

    def start(self) -> None:
        """Run the reactor until :meth:`stop`."""
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Say whether the caller is in this thread."""
        return self._thread.ident == threading.get_ident()

    @property
    def is_alive(self) -> bool:
        """Say whether anything that is asked for will be done."""
        return self._thread.is_alive()

    def submit(
        self, work: Callable[[], Any], future: Future[Any] | None = None
    ) -> Future[Any]:
        """
        Do *work* in the reactor's thread.

        Args:
            work: What to call.
            future: The future to answer with, made beforehand by a caller who may
                be interrupted before this returns one.

        Returns:
            The future of what it comes to, of its Deferred or coroutine if it
            returns one.  To cancel the future is to cancel that.

        Raises:
            RuntimeError: The interpreter is exiting.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the interpreter is exiting: no call is possible")
        if future is None:
            future = Future()
        self.reactor.callFromThread(self._begin, work, future)
        return future

    def at_once(self, work: Callable[[], _T]) -> _T:
        """Do *work*, which waits for nothing, in the thread; return its result."""
        if self.is_current:
            return work()
        done: _T = self.submit(work).result()
        return done

    def _begin(self, work: Callable[[], Any], future: Future[Any]) -> None:
        if future.cancelled():
            return
        done: Deferred[Any] = maybeDeferred(work)
        if not done.called:
            future.add_done_callback(partial(self._ended, done))
        done.addCallbacks(
            _succeeded, _failed, callbackArgs=(future,), errbackArgs=(future,)
        )

    def _ended(self, done: Deferred[Any], future: Future[Any]) -> None:
        """Cancel what nobody waits for any more; called in any thread."""
        if not future.cancelled():
            return
        if self.is_current:
            done.cancel()  # before anything that was asked for since
        else:
            self.reactor.callFromThread(done.cancel)

    def stop(self) -> None:
        """Close all connections; what is under way fails, or never ends."""
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(_PARTING_TIME)

    def abandon(self) -> None:
        """
        Part, in a forked process, from what is the parent's.

        The descriptors are closed and nothing else is done to what they stand
        for: to shut a connection down would take it from the parent.
        """
        reactor = self.reactor
        for each in {*reactor.getReaders(), *reactor.getWriters()}:
            socket = getattr(each, "socket", None)
            if socket is None:
                each.connectionLost(None)  # the pipe that wakes the reactor
            else:
                socket.close()


def _succeeded(result: Any, future: Future[Any]) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(result)


def _failed(failure: Failure, future: Future[Any]) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(failure.value)


class _Process:
    """What this process has one of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: ReactorThread | None = None

    def thread(self) -> ReactorThread:
        """Return the thread; start it if it does not run."""
        with self._lock:
            if self._thread is None:
                thread = ReactorThread()
                thread.start()
                self._thread = thread
            return self._thread

    def begin_again(self) -> None:
        """Have no thread: this process was just forked."""
        self._lock = threading.Lock()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.abandon()

    def stop(self) -> None:
        """Close what is open before the interpreter goes."""
        if self._thread is not None and self._thread.is_alive:
            self._thread.stop()


_process = _Process()
os.register_at_fork(after_in_child=_process.begin_again)
atexit.register(_process.stop)


def reactor_thread() -> ReactorThread:
    """Return the reactor thread of this process, running."""
    return _process.thread()
