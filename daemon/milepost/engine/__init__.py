"""The shell: it feeds the core, does what the core asks, and tells readers what was committed."""
