"""A server whose disk stands still, or is full, lets another lead."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.logger import Logger

from consensus.core.values import Role
from consensus.errors import OverloadedError, RaftError

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.core.raft import Raft
    from consensus.core.values import ServerId
    from consensus.shell.pace import Pace

_log = Logger()


class DiskWatch:
    """
    Watches one server's disk.

    Args:
        raft: The server's.
        directory: Where its data is.
        pace: What time is counted in, and how long a write may take.
    """

    def __init__(self, raft: Raft, directory: Path, pace: Pace) -> None:
        self._raft = raft
        self._name: ServerId = raft.state.server
        self._directory = directory
        self._pace = pace
        #: At which tick each write began that storage has not finished yet.
        self.writing: deque[float] = deque()
        self._is_full = False
        self._is_handing_over = False

    def on_full(self, is_full: bool) -> None:  # noqa: FBT001 - what happened is the argument
        """Refuse writes while the disk is full, and say so; reads go on."""
        self._is_full = is_full
        text = (
            "the disk of {server} is full: free some space for {directory};"
            " writes are refused until then"
            if is_full
            else "the disk of {server} has room again for {directory}"
        )
        _log.warn(text, server=self._name, directory=self._directory)

    def require_room(self) -> None:
        """
        Refuse a command while the disk is full.

        Raises:
            OverloadedError: It is.
        """
        if self._is_full:
            message = (
                f"the disk of {self._name}, with {self._directory}, is full;"
                " free some space"
            )
            raise OverloadedError(message)

    def look(self) -> None:
        """Let another lead if there is reason to."""
        pace = self._pace
        stalled = self.writing and pace.now - self.writing[0] >= pace.stall
        if not (stalled or self._is_full):
            self._is_handing_over = False
            return
        state = self._raft.state
        if state.role is not Role.LEADER or state.transferee is not None:
            return
        with suppress(RaftError):
            heir = self._raft.transfer()
            # Once: the heir's disk may be no better, for hours.
            if not self._is_handing_over:
                self._is_handing_over = True
                self._warn(heir)

    def _warn(self, heir: ServerId) -> None:
        _log.warn(
            "the disk of {server} {problem}; handing over to {heir}",
            server=self._name,
            problem="is full"
            if self._is_full
            else f"has not finished a write in {self._pace.stall_seconds:g} s",
            heir=heir,
        )
