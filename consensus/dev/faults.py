"""
The faults that ``raft dev`` can make, by name, for a console with buttons.

``docs/howto/develop-with-raft-dev.md`` has what a page sees of them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus.dev.cluster import Cluster, FaultError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.values import ServerId
    from consensus.dev.channel import Question

#: What a button does to a disk and to a clock, in seconds.
SLOW_DISK = 0.2
SKEW = 5.0

#: Who suffers one of these answers no more; so an answer has so many seconds.
_SILENCING = {"stop", "pause"}
_GRACE = 0.2


@dataclass(frozen=True, slots=True)
class Fault:
    """
    A fault that one server suffers, or does not.

    Args:
        title: What a person calls it.
        active: Returns who suffers it.
        switch: Lets a server suffer it, or no more.
    """

    title: str
    active: Callable[[], list[ServerId]]
    switch: Callable[[ServerId, bool], object]


class Faults:
    """
    The faults of *cluster*.

    Args:
        cluster: Whose members suffer.
        clock: What time goes by.
    """

    def __init__(self, cluster: Cluster, clock: Any) -> None:
        self._cluster = cluster
        self._clock = clock
        self._faults = {
            "stop": Fault("Stop", self._stopped, self._stop),
            "pause": Fault("Pause", cluster.paused, self._pause),
            "partition": Fault("Partition", cluster.cut_off, self._cut),
            "slow-disk": Fault("Slow disk", self._slow, self._delay),
            "clock-skew": Fault("Clock skew", self._skewed, self._skew),
        }

    def answer(self, question: Question, asked: ServerId) -> tuple[int, Any]:
        """
        Answer *question* as HTTP does: with a status, and what is JSON.

        Args:
            question: What is asked.
            asked: The member that passes it on.
        """
        if not question.fault:
            return 200, self.listed()
        fault = self._faults.get(question.fault)
        if fault is None:
            names = ", ".join(self._faults)
            return _error(404, "not_found", f"the faults are {names}")
        if question.server not in self._cluster.names:
            names = ", ".join(self._cluster.names)
            return _error(400, "invalid_request", f"the servers are {names}")
        try:
            if (
                question.on
                and question.fault in _SILENCING
                and question.server == asked
            ):
                return 200, self._switch_later(question.fault, fault, asked)
            fault.switch(question.server, question.on)
        except FaultError as error:
            return _error(409, "rejected", str(error))
        return 200, self._shown(question.fault, fault)

    def _switch_later(self, name: str, fault: Fault, server: ServerId) -> Any:
        """Let *server* suffer *fault* when it has passed the answer on."""
        self._clock.callLater(_GRACE, self._switch, fault, server)
        shown = self._shown(name, fault)
        return shown | {"active": sorted({*shown["active"], server})}

    @staticmethod
    def _switch(fault: Fault, server: ServerId) -> None:
        with suppress(FaultError):  # it has stopped meanwhile
            fault.switch(server, True)  # noqa: FBT003 - a switch

    def listed(self) -> list[dict[str, Any]]:
        """Return all faults, and who suffers them."""
        return [self._shown(name, fault) for name, fault in self._faults.items()]

    def _shown(self, name: str, fault: Fault) -> dict[str, Any]:
        return {
            "name": name,
            "title": fault.title,
            "servers": list(self._cluster.names),
            "active": fault.active(),
        }

    def _stopped(self) -> list[ServerId]:
        running = self._cluster.running()
        return [name for name in self._cluster.names if name not in running]

    def _stop(self, server: ServerId, on: bool) -> object:  # noqa: FBT001 - a switch
        change = self._cluster.stop if on else self._cluster.start
        return change([server])

    def _pause(self, server: ServerId, on: bool) -> object:  # noqa: FBT001 - a switch
        return (self._cluster.pause if on else self._cluster.resume)(server)

    def _cut(self, server: ServerId, on: bool) -> None:  # noqa: FBT001 - a switch
        cluster = self._cluster
        if on == (server in cluster.cut_off()):
            return
        others = [name for name in cluster.names if name != server]
        if on:
            # On a side of its own, which nobody else is on.
            sides = {server: max(cluster.sides.values()) + 1}
        else:
            kept = [name for name in others if name not in cluster.cut_off()]
            sides = {server: cluster.sides[kept[0]]}
        cluster.set_sides(sides)

    def _slow(self) -> list[ServerId]:
        return _set(self._cluster.sync_delays, self._cluster.names)

    def _delay(self, server: ServerId, on: bool) -> None:  # noqa: FBT001 - a switch
        self._cluster.slow(server, SLOW_DISK if on else 0.0)

    def _skewed(self) -> list[ServerId]:
        return _set(self._cluster.skews, self._cluster.names)

    def _skew(self, server: ServerId, on: bool) -> None:  # noqa: FBT001 - a switch
        self._cluster.skew(server, SKEW if on else 0.0)


def _set(values: dict[ServerId, float], names: tuple[ServerId, ...]) -> list[ServerId]:
    return [name for name in names if values.get(name)]


def _error(status: int, code: str, message: str) -> tuple[int, Any]:
    return status, {"error": {"code": code, "message": message}}
