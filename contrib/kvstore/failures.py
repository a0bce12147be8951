"""
Why a command of the key-value store fails, or a query has no answer.

A caller gets them as :class:`~consensus.errors.CommandFailedError`, whose
``kind`` is the name of the class here.
"""

from __future__ import annotations


class NotAnIntegerError(ValueError):
    """What a key has is no whole number of 64 bits."""


class NotANumberError(ValueError):
    """What a key has is no number."""


class IncrementOverflowError(ArithmeticError):
    """The sum is no whole number of 64 bits, or has no end."""


class ValueTooLargeError(ValueError):
    """The value would be larger than one may be."""


class AnswerTooLargeError(ValueError):
    """All of this does not fit into one answer."""


class LeaseNotFoundError(LookupError):
    """There is no such lease: it has ended, or never was."""


class LeaseExistsError(LookupError):
    """There is a lease of that id."""


class TooManyLeasesError(RuntimeError):
    """No more leases can be granted until some have ended."""


class CompactedError(LookupError):
    """
    What happened then is not kept any more.

    Args:
        first_revision: The first that is.
    """

    def __init__(self, first_revision: int) -> None:
        self.first_revision = first_revision
        super().__init__(f"the history begins at revision {first_revision}")


class NoHistoryError(LookupError):
    """No history is kept here."""
