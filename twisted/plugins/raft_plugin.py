"""Lets ``twistd`` know the subcommand ``raft``."""

from twisted.application.service import ServiceMaker

raft = ServiceMaker("raft", "consensus.service", "A Raft cluster's servers.", "raft")
