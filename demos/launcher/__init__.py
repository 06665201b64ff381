"""Runs an application in several processes and watches what their mesh does."""
