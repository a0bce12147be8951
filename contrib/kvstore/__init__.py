"""A replicated key-value store: its commands, its state machine, its client."""

from __future__ import annotations

from contrib.kvstore.client import KVClient
from contrib.kvstore.commands import Cas, Delete, Get, Set
from contrib.kvstore.machine import KVStore

__all__ = ["Cas", "Delete", "Get", "KVClient", "KVStore", "Set"]
