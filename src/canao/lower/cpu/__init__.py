"""Kernels on the cores of a CPU: register tiles, panels of weights, vectors over rows."""
