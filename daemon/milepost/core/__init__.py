"""The pure core: what the journal means and what to do next. No I/O, no clock and no randomness of its own."""
