"""`python -m labkit` does the same as the command `labkit`."""

from labkit.cli import main

main()
