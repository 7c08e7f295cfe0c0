"""Kernels of OpenCL devices: groups of work-items over rows, and tiles of products in registers.
May import lower/lowering.py, lower/batches.py, lower/copies.py, lower/epilogue.py,
lower/naming.py, lower/panels.py, lower/row_reads.py, schedule and what is below it."""
