"""The page of a sweep: which blocks, at one look, and the evidence below."""
