"""``python -m trainer``, for torchrun."""

from trainer.cli import main

main()
