"""The base model, training adapters in it, and sampling pictures from it."""
