"""``python -m bnfold`` is the command line."""

from bnfold.cli import main

main()
