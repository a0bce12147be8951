"""Replicated elections, services that run once, and service discovery."""

from __future__ import annotations

from contrib.election.client import CandidacyLostError, ElectionClient, Leadership
from contrib.election.commands import Instance, Instances, Leader
from contrib.election.machine import ElectionMachine
from contrib.election.registration import Registration
from contrib.election.service import (
    Candidate,
    LeaderService,
    NotElectedError,
    leader_only,
)
from contrib.election.state import ElectionError, SupersededError, TooManyError

__all__ = [
    "CandidacyLostError",
    "Candidate",
    "ElectionClient",
    "ElectionError",
    "ElectionMachine",
    "Instance",
    "Instances",
    "Leader",
    "LeaderService",
    "Leadership",
    "NotElectedError",
    "Registration",
    "SupersededError",
    "TooManyError",
    "leader_only",
]
