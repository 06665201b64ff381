"""A small application over real data: what is near which airport."""
