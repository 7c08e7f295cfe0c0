"""C11 for CPUs, a module for each kind of kernel; text only, nothing is decided here. May import
the shared modules of emit, lower and what is below it."""
