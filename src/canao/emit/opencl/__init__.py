"""OpenCL C for GPUs, a module for each kind of kernel, and their launches as tables; text only,
nothing is decided here. May import the shared modules of emit, lower and what is below it."""
