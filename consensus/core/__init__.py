"""Raft itself: plain synchronous Python that touches nothing outside."""
