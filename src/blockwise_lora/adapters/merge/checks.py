"""What several rules demand of their parameters. Raised as `ValueError`, see `parameters`."""


def check_density(density: float) -> None:
    """A share of values to keep."""
    if not 0 < density <= 1:
        raise ValueError(f"density is the share of values to keep, above 0 and up to 1: {density}")


def check_rank(rank: int | None) -> None:
    """A rank, or None."""
    if rank is not None and rank < 1:
        raise ValueError(f"rank is at least 1, not {rank}")
