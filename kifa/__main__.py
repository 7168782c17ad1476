"""``python -m kifa``."""

from kifa.cli import main

main()
