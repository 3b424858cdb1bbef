"""Which blocks? Masks by the dozen, trained, ablated, scored and compared."""
