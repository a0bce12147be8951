"""Snapshots as files: their format, their header, and where they are kept."""
