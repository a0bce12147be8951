"""The test kit: suites and simulators for adapters and state machines."""
