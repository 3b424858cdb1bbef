"""Commands: thin over the library, each loaded only when it is called."""
