"""A client's call on its way: whom to ask, as which session, how often."""
