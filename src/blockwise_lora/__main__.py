"""`blockwise-lora`, and `python -m blockwise_lora`.

The adapter commands are for people without a Kedro project, too: for them Kedro is not even
imported, which would cost a second and write its own lines among theirs.
"""

import sys

from blockwise_lora.processes import lean


def main() -> None:
    """Run one command."""
    lean()
    if sys.argv[1:2] == ["adapter"]:
        from blockwise_lora.commands.adapter import adapter

        adapter(sys.argv[2:], prog_name="blockwise-lora adapter")
    else:
        from blockwise_lora.cli import main as within_project

        within_project()


if __name__ == "__main__":
    main()
