"""Applying: what committed entries do to the state machine and the sessions."""
