"""The engine: runs every stream on its schedule, through the ports of the core and nothing else."""
