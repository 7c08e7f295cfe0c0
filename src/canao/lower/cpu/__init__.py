"""Kernels on the cores of a CPU: register tiles, panels of weights, vectors over rows. May import
lower/lowering.py, lower/batches.py, lower/copies.py, lower/epilogue.py, lower/naming.py,
lower/panels.py, lower/row_reads.py, schedule and what is below it."""
