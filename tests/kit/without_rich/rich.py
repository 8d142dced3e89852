"""Hides the package rich from the processes of the tests, as `kit.binary` says."""

raise ImportError("users have no rich")
