"""A server's HTTP port: health, metrics, and all that the ``raft`` command does."""
