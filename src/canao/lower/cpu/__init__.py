"""Kernels on the cores of a CPU: register tiles, panels of weights, vectors over rows. May import
lower/lowering.py, schedule and what is below it."""
