"""``raft dev``: a cluster in one terminal, with reload and faults to try out."""
