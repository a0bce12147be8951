"""Backups of a whole cluster in one file, and new clusters from them."""
