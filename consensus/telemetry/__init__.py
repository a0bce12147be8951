"""What a server counts and measures, and how that is published."""
