"""Judges: models that turn pictures into vectors, and the protocol that turns those into scores."""
