"""What kernels may ask of any OpenCL device, and what they are called for."""

from __future__ import annotations

from canao.target import Target

# All GPUs of phones that run OpenCL give a group so many work-items, if these need few registers.
MOST_ITEMS = 256
# Of the 32 KB that OpenCL 1.2 promises, with room for what reductions need.
LOCAL_BYTES = 24 * 1024


def vector_name(target: Target) -> str:
    """The part of a kernel's name that says how many floats its vectors have."""
    return f"cl{target.vector}"
