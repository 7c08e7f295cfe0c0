"""Kernels on the cores of a CPU: register tiles, panels of weights, vectors over rows. May import
the protocol in lower/lowering.py, and what lower may import."""
