"""The engine: runs every stream on its schedule, and reaches the outside only through the ports of the core."""
