"""The commands of ``raft``, a module for each kind of work; ``cli`` adds them."""
