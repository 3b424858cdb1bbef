"""`python -m blockwise_lora` is `blockwise-lora`."""

from blockwise_lora.cli import main

main()
