"""What applications are made of: their commands, leases, tables and clients."""
