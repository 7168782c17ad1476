"""`python -m lazyfs` is the command `lazyfs`."""

from lazyfs.cli import main

main(prog_name="lazyfs")
