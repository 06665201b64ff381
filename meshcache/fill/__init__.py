"""Loads in progress: who loads, who waits, and who is next."""
