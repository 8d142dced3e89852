"""The composition root: settings become the parts that work, and the parts a daemon."""
