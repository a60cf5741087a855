"""Launching: preparation of a config, executors, SLURM, sweeps and plans."""
