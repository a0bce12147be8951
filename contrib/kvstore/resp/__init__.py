"""Redis' protocol, on an optional port of each server."""
