"""How much of what a machine can do a library uses: work against the peak of its own type."""

from __future__ import annotations

from canao.artifact.directory import Artifact
from canao.device.base import Device


def library_peak(artifact: Artifact, device: Device, threads: int = 1) -> float:
    """Operations a second of a library each of whose kernels runs at the peak of what its products
    are of. How much work there is of each type is taken from the manifest, at its length."""
    products, work = artifact.products, dict[str, int]()
    for kernel in artifact.manifest["kernels"]:
        product = products[kernel["name"]]
        work[product] = work.get(product, 0) + kernel["flops"]
    total = sum(work.values())
    if not total:
        return device.peak_flops(threads)
    seconds = sum(n / device.peak_flops(threads, product) for product, n in work.items() if n)
    return total / seconds
