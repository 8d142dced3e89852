"""Milepost copies a business's conversations out of the Graph API into a database, and never loses its place."""

__version__ = "0.2.0"
