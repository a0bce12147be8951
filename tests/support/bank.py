"""A bank as a declared class, for tests of it and of what it goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.declare import Machine, read, tick, write
from consensus.errors import NotYetError

if TYPE_CHECKING:
    from consensus.declare import Call


class Accounts(Machine):
    """Accounts that cannot be overdrawn."""

    balance: dict[str, int]

    def __init__(self) -> None:
        self.balance = {}

    @write
    def deposit(self, account: str, amount: int = 1) -> int:
        """Put *amount* on *account*."""
        if amount < 0:
            raise ValueError("a deposit is not negative")
        self.balance[account] = self.balance.get(account, 0) + amount
        return self.balance[account]

    @write(atomic=True)
    def transfer(self, source: str, target: str, amount: int) -> None:
        """Take from *source* and give to *target*; a look at the end is enough."""
        self.balance[source] = self.balance.get(source, 0) - amount
        self.balance[target] = self.balance.get(target, 0) + amount
        if self.balance[source] < 0:
            raise ValueError("not so much is there")

    @read
    def balance_of(self, account: str) -> int:
        """Return what is on *account*."""
        return self.balance.get(account, 0)

    @read
    def all_accounts(self) -> dict[str, int]:
        """Return everything."""
        return self.balance

    @read
    def rich(self, amount: int) -> set[str]:
        """Return who has *amount*, as soon as anybody has."""
        found = {name for name, each in self.balance.items() if each >= amount}
        if not found:
            raise NotYetError("nobody is so rich")
        return found


class Timer(Machine):
    """Something that ends in time."""

    ends: dict[str, int]
    now: int

    def __init__(self) -> None:
        self.ends = {}
        self.now = 0

    @tick
    def on_time(self, now: int) -> None:
        """End what is due."""
        self.now = now
        self.ends = {name: end for name, end in self.ends.items() if end > now}

    def next_time(self) -> int | None:
        """Return when the next one ends."""
        return min(self.ends.values(), default=None)

    @write
    def start(self, name: str, seconds: float) -> None:
        """Let *name* end in so many *seconds*."""
        self.ends[name] = self.now + round(seconds * 1000)

    @read
    def ended(self, name: str) -> int:
        """Return when *name* had ended, as soon as it has."""
        if name in self.ends:
            raise NotYetError("it runs")
        return self.now

    @read
    def running(self) -> list[str]:
        """Return what has not ended."""
        return sorted(self.ends)


def account_of(call: Call) -> str | None:
    """Return the account that *call* is about, if it is one."""
    account: str | None = call.arguments.get("account")
    return account
