"""Artifact: the directory that a compilation leaves behind.

    model.so            the library; needs nothing but libc
    canao_model.h       its C interface, with this model's constants
    weights.bin         packed weights, 64-byte aligned, memory-mapped by the library
    tokenizer.json      when the model came with one
    manifest.json       what it is: versions, hashes, target, inputs, outputs, kernels
    certificate.json    after `canao certify`
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.files import file_digest, fingerprint
from canao.errors import InputError

ARTIFACT_FORMAT = 2
_REQUIRED = {"target": dict, "inputs": list, "outputs": list, "files": dict,
             "max_length": int, "operators": int, "kernels": list}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled model on disk. `load` checks it; the fields of the manifest are in `manifest`."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """The artifact in directory `path`; InputError if it is not one, or is damaged."""
        path = Path(path)
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{path}: no manifest.json; give a directory written by `canao compile`"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}/manifest.json: cannot be read ({error})") from None
        _check(path, manifest)
        return cls(path, manifest)

    @property
    def library(self) -> Path:
        return self.path / "model.so"

    @property
    def weights(self) -> Path:
        return self.path / "weights.bin"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.manifest.get("labels", ()))

    @property
    def max_length(self) -> int:
        return int(self.manifest["max_length"])

    @property
    def operators(self) -> int:
        """How many operators the model had before fusion."""
        return int(self.manifest["operators"])

    @property
    def kernels(self) -> int:
        """How many kernels were left of them after fusion."""
        return len(self.manifest["kernels"])

    @property
    def resumes(self) -> bool:
        """Whether the library can continue a sequence (canao_extend)."""
        return bool(self.manifest.get("resumes", False))

    @property
    def digest(self) -> str:
        """Hash of the library and its weights: what a certificate is about."""
        files = self.manifest["files"]
        return hashlib.sha256((files["model.so"] + files["weights.bin"]).encode()).hexdigest()

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
            if digest(path) != expected:
                raise InputError(f"{path}: content differs from the manifest; compile again")


def _check(path: Path, manifest: object) -> None:
    if not isinstance(manifest, dict):
        raise InputError(f"{path}/manifest.json: not a JSON object; compile again")
    # First of all: another format has other entries.
    if manifest.get("format") != ARTIFACT_FORMAT:
        raise InputError(
            f"{path}: artifact format {manifest.get('format')}, this CANAO reads "
            f"{ARTIFACT_FORMAT}; compile the model again"
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise InputError(f"{path}/manifest.json: '{key}' is missing or not a {kind.__name__}")
    for name in manifest["files"]:
        if Path(name).name != name or not (path / name).is_file():
            raise InputError(f"{path}: file {name!r} is named in the manifest but is not there")
    for name in ("model.so", "weights.bin"):
        if name not in manifest["files"]:
            raise InputError(f"{path}/manifest.json: does not list {name}; compile again")
