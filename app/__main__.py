"""`python -m app`: the command line of a checkout."""

from .cli import main

main()
