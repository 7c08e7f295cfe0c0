"""Running a compiled library in this Python process: loading it, checking its inputs, batches,
generation and tasks. May import artifact, target, element types of graph, and errors."""
