"""Artifact: the directory that a compilation leaves behind.

    model.so            the library, libmodel.so for Android; needs nothing but libc
    canao_model.h       its C interface, with this model's constants
    canao_pick.h        picks one of several such libraries, by how fast each is on the device
    weights.bin         packed weights, 64-byte aligned, memory-mapped by the library
    tokenizer.json      when the model came with one
    manifest.json       what it is: versions, hashes, target, inputs, outputs, kernels
    certificate.json    after `canao certify`
    verified.json       after `canao verify` on a GPU
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.files import file_digest, fingerprint
from canao.artifact.manifest import ARTIFACT_FORMAT, LIBRARY, MANIFEST, REMEDY, read_manifest
from canao.errors import InputError
from canao.isa.table import FLOAT

_WEIGHTS = "weights.bin"

GPU = "opencl"  # what manifests of kernels for GPUs have in the place of an instruction set


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled model on disk. `load` checks it; the fields of the manifest are in `manifest`.

    timed_only   it is measured and nothing else, so that a device may make up its weights: how long
                 a library takes does not depend on them
    """

    path: Path
    manifest: dict[str, Any]
    timed_only: bool = False

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """The artifact in directory `path`; InputError if it is not one, or is damaged."""
        path = Path(path)
        manifest = read_manifest(path)
        for name in (manifest.get("library", LIBRARY), _WEIGHTS):
            if name not in manifest["files"]:
                raise InputError(f"{path}/{MANIFEST}: does not list {name}; {REMEDY}")
        for name in manifest["files"]:
            _require_file(path / name)
        return cls(path, manifest)

    @property
    def library(self) -> Path:
        return self.path / str(self.manifest.get("library", LIBRARY))

    @property
    def weights(self) -> Path:
        return self.path / _WEIGHTS

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Where in the weights file are whole numbers that say where to read in tables: their first
        byte, and how many bytes."""
        return tuple((first, count) for first, count in self.manifest.get("places", ()))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.manifest.get("labels", ()))

    @property
    def max_length(self) -> int:
        return int(self.manifest["max_length"])

    @property
    def precision(self) -> str:
        """Of the products, as `canao compile --precision` names it."""
        return str(self.manifest["precision"])

    @property
    def on_cpu(self) -> tuple[str, ...]:
        """Kernels of a library for GPUs that the CPU runs, as `--allow-cpu` lets it."""
        return tuple(k["name"] for k in self.manifest["kernels"] if k.get("cpu"))

    @property
    def operators(self) -> int:
        """How many operators the model had before fusion."""
        return int(self.manifest["operators"])

    @property
    def kernels(self) -> int:
        """How many kernels were left of them after fusion."""
        return len(self.manifest["kernels"])

    @property
    def isas(self) -> tuple[str, ...]:
        """The instruction sets that the library has kernels for, the narrowest first."""
        return (*(level["isa"] for level in self._narrower), self.manifest["target"]["isa"])

    @property
    def on_gpu(self) -> bool:
        """Whether its kernels are for OpenCL devices."""
        return self.isas == (GPU,)

    @property
    def all_kernels(self) -> list[dict[str, Any]]:
        """The manifest's kernels, of every instruction set."""
        narrower = [kernel for level in self._narrower for kernel in level["kernels"]]
        return [*self.manifest["kernels"], *narrower]

    @property
    def _narrower(self) -> list[dict[str, Any]]:
        return list(self.manifest.get("narrower", ()))

    @property
    def products(self) -> dict[str, str]:
        """Of each kernel, by its name, what its products are of: a name of `Isa.tiles`."""
        return {k["name"]: k.get("product", FLOAT) for k in self.all_kernels}

    @property
    def resumes(self) -> bool:
        """Whether the library can continue a sequence (canao_extend)."""
        return bool(self.manifest.get("resumes", False))

    def digests(self) -> dict[str, str]:
        """The digest of each file as it lies on the disk now, the manifest included: what a
        certificate is about. InputError if one cannot be read."""
        found = {}
        for name in ("manifest.json", *self.manifest["files"]):
            try:
                found[name] = file_digest(self.path / name)
            except OSError as error:
                raise InputError(
                    f"{self.path / name}: cannot be read ({error.strerror}); compile again"
                ) from None
        return found

    @property
    def digest(self) -> str:
        """One hash of all files as they lie on the disk now."""
        return digest_of(self.digests())

    def verify(self, *, whole: bool = True) -> None:
        """Raise InputError unless every file has the bytes that the manifest names.

        Reading 400 MB of weights for their digest takes half a second. Without `whole` they are
        compared by size and fingerprint, in about a millisecond: other weights and a copy cut
        short are found, a flipped bit may not be. All other files are always read whole.
        """
        for name, expected in self.manifest["files"].items():
            path, digest = self.path / name, file_digest
            if name == self.weights.name and not whole and "fingerprint" in self.manifest:
                expected, digest = self.manifest["fingerprint"], fingerprint
            try:
                found = digest(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None
            if found != expected:
                raise InputError(f"{path}: content differs from the manifest; compile again")


def digest_of(digests: Mapping[str, str]) -> str:
    """One hash for the digests of several files, by their names."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _require_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(
            f"{path}: is named in the manifest but cannot be read ({error.strerror}); {REMEDY}"
        ) from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is not a regular file; {REMEDY}")


__all__ = ["ARTIFACT_FORMAT", "Artifact"]
