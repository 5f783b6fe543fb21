"""Sweeps: jobs on this machine, on SLURM and on Ray."""
