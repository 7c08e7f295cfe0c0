"""C11 for CPUs, from a Schedule: text only, nothing is decided."""
