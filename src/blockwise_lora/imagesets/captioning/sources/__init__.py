"""Sources of captions, one a file."""
