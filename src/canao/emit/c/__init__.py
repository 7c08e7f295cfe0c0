"""C11 for CPUs, a module for each kind of kernel; text only, nothing is decided here. May import
what emit may import, and the shared modules of emit."""
