"""The shell around the core: threads, clocks, storage and transport for one server."""
