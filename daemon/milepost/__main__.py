"""Lets `python -m milepost` be the command `milepost`."""

from milepost.cli import main

main()
