"""What the config is read with: the document, its values, and what is wrong with it."""
