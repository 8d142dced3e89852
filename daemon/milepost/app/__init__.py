"""The composition root: builds the parts from the settings, and the daemon from the parts."""
