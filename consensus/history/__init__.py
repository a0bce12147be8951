"""What stands in a log, and what the state was after each of its entries."""
