"""``raft doctor``: what is the matter with the hosts of a cluster, measured."""
