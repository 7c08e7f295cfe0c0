"""Running a compiled library in this Python process: loading it, checking its inputs, batches,
generation and tasks. May import graph/dtypes.py, model/inventory, artifact, target and errors."""
