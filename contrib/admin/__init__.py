"""The web console: a cluster in a browser, on the HTTP API of one of its servers."""
