"""Sends notices to people by Apprise, which is loaded only where it is used."""
