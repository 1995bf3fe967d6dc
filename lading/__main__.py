"""`python -m lading`: the command line, where the script `lading` is not on PATH."""

from lading.cli import main

main()
