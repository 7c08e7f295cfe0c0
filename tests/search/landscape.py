"""A search in which nothing is trained, compiled or run: a teacher, a compiler and a device
that follow from the architecture by formula. Accuracy grows with every size, at a falling rate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from canao.artifact.directory import ARTIFACT_FORMAT, Artifact
from canao.artifact.files import file_digest, fingerprint
from canao.artifact.manifest import sealed
from canao.device.null import NullDevice
from canao.model.arch import Arch
from canao.search import SearchOptions, SearchResult, loop
from canao.target import get_target
from canao.train.metrics import Score

HOST = get_target()
TEACHER = Arch.uniform(6, 384, 12, 1536)


def accuracy(arch: Arch, teacher: Arch = TEACHER) -> float:
    halves = sum((block.heads > 0) + (block.ffn > 0) for block in arch.blocks) / 2
    layers, hidden = halves / teacher.layers, arch.hidden / teacher.hidden
    ffn = sum(block.ffn for block in arch.blocks) / arch.layers / teacher.ffn
    heads = sum(b.heads * arch.head_size for b in arch.blocks) / arch.layers / arch.hidden
    loss = 0.15 * (1 - layers) ** 2 + 0.25 * (1 - hidden) ** 2 + 0.06 * (1 - ffn) ** 2
    return 0.92 - loss - 0.1 * (1 - layers) * (1 - hidden) - 0.1 * (1 - heads) ** 2


def kernel_times(arch: Arch) -> list[tuple[str, float]]:
    """Kernels and times of `arch` as a profile gives them, 0.05 ms beside the layers."""
    return [(name, ms) for name, _, ms in _kernels(arch)]


class FormulaKernels:
    """The same kernels, and to which half of a layer each belongs."""

    def __call__(self, arch: Arch) -> list[tuple[str, int]]:
        return [(name, half) for name, half, _ in _kernels(arch)]

    def isa(self, arch: Arch) -> str:
        return "one"


kernels_by_formula = FormulaKernels()


def _kernels(arch: Arch) -> list[tuple[str, int, float]]:
    h, found = arch.hidden, [("embedding", -1, 0.03)]
    for i, block in enumerate(arch.blocks):
        w, f = block.heads * arch.head_size, block.ffn
        if w:
            found += [
                (f"gemm_{h}x{3 * w}_bias", 2 * i, 128 * 6e-8 * h * w),
                (f"attention_{w}_{block.heads}", 2 * i, 128 * 128 * 4e-8 * w + 2e-3 * block.heads),
                (f"gemm_{w}x{h}_bias_residual_norm", 2 * i, 128 * 2e-8 * h * w),
            ]
        if f:
            found += [
                (f"gemm_{h}x{f}_bias_gelu", 2 * i + 1, 128 * 2e-8 * h * f),
                (f"gemm_{f}x{h}_bias_residual_norm", 2 * i + 1, 128 * 2e-8 * h * f),
            ]
    return [*found, ("classifier", -1, 0.02)]


def latency_ms(arch: Arch) -> float:
    """End to end: the kernels, and 3 % between them."""
    return 1.03 * sum(ms for _, ms in kernel_times(arch))


def arch_of(artifact: Artifact) -> Arch:
    return Arch.from_json((artifact.path / "arch.json").read_text())


def compile_by_formula(model_dir: Path, out: Path, precision: str = "float32") -> Artifact:
    """An artifact directory that `Artifact` accepts; the library in it is a line of text."""
    arch = Arch.from_json((model_dir / "arch.json").read_text())
    out.mkdir()
    for name in ("model.so", "weights.bin"):
        (out / name).write_text(f"{name} of {arch}")
    (out / "arch.json").write_text(arch.to_json())
    kernels = [name for name, _ in kernel_times(arch)]
    products = {"product": "i8"} if precision == "int8" else {}
    manifest = {
        "format": ARTIFACT_FORMAT, "canao": "0", "toolchain": "none", "model": "bert",
        "target": {name: getattr(HOST, name) for name in ("name", "isa", "triple")},
        "task": "none", "labels": [], "problem_type": "", "pooling": None, "stop_tokens": [],
        "left_padding": False, "tokenizer": None,
        "inputs": [{"name": "input_ids", "dtype": "int32", "shape": ["s"], "limit": 99}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 2]}],
        "max_length": 512, "resumes": False, "fusion": True, "precision": precision,
        "kept": {}, "smoothed": [], "agreement": None,
        "operators": 60 * arch.layers + 9, "parameters": 0, "rewrites": {},
        "flops": {"length": 128, "total": 1000 * len(kernels)},
        "kernels": [{"name": name, "ops": ["matmul", "add"], "flops": 1000, "plan": "p",
                     "tuned": False, "output": "v", **(products if "gemm" in name else {})}
                    for name in kernels],
        "files": {name: file_digest(out / name) for name in ("model.so", "weights.bin")},
        "fingerprint": fingerprint(out / "weights.bin"),
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return Artifact.load(out)


@dataclass(frozen=True)
class FormulaStudent:
    model_dir: Path
    score: Score


class FormulaErrors:
    """What a layer of the teacher loses: the lower ones more."""

    def of_heads(self, layer: int, heads: int) -> float:
        return float((1 - heads / TEACHER.heads) ** (2 + layer / 3))

    def of_ffn(self, layer: int, units: int) -> float:
        return float((1 - units / TEACHER.ffn) ** (2 + layer / 3))


@dataclass
class FormulaTrainer:
    """Counts what it is asked for; `on_proxy` may interrupt a proxy score, `on_finish` a full
    training."""

    work: Path
    asked: list[tuple[str, Arch]] = field(default_factory=list)
    on_proxy: Callable[[int], None] = lambda count: None
    on_finish: Callable[[int], None] = lambda count: None

    def teacher_arch(self) -> Arch:
        return TEACHER

    def teacher(self) -> FormulaStudent:
        return FormulaStudent(self.skeleton(TEACHER), self.score(TEACHER))

    def vocabulary(self) -> tuple[int, int] | None:
        return None

    def skeleton(self, arch: Arch) -> Path:
        folder = self.work / str(arch).replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "arch.json").write_text(arch.to_json())
        return folder

    def errors(self) -> FormulaErrors:
        return FormulaErrors()

    def kept_layers(self, count: int) -> range:
        return range(TEACHER.layers - count, TEACHER.layers)

    def word_width(self, arch: Arch) -> int:
        return arch.hidden

    def worth(self, arch: Arch) -> float:
        return 0.0  # nothing is known before it is trained

    def proxy_score(self, arch: Arch) -> Score:
        self.asked.append(("proxy", arch))
        self.on_proxy(self.count("proxy"))
        return self.score(arch)

    def finish(self, arch: Arch) -> FormulaStudent:
        self.asked.append(("finish", arch))
        self.on_finish(self.count("finish"))
        return FormulaStudent(self.skeleton(arch), self.score(arch))

    def score(self, arch: Arch) -> Score:
        # A little noise that depends on the architecture alone, the same in every process.
        noise = int(hashlib.sha256(str(arch).encode()).hexdigest()[:4], 16) / 0xFFFF
        value = accuracy(arch) + 0.01 * (noise - 0.5)
        return Score({"accuracy": value, "f1": value - 0.01}, "accuracy")

    def count(self, kind: str) -> int:
        return sum(one == kind for one, _ in self.asked)


def device(latency: Callable[[Arch], float] = latency_ms, **options: Any) -> NullDevice:
    """The null device with the latencies and kernel times of the formulas above."""
    return NullDevice(
        lambda artifact: latency(arch_of(artifact)),
        kernels=lambda artifact: kernel_times(arch_of(artifact)),
        **options,
    )


def run_search(
    options: SearchOptions, trainer: Any, compile: Any, where: Any, *rest: Any, **named: Any
) -> SearchResult:
    """`canao.search.run_search` with the kernels of the formulas."""
    return loop.run_search(options, trainer, compile, where, kernels_by_formula, *rest, **named)


def options(run_dir: Path, **changes: object) -> SearchOptions:
    """A search that takes a second: 20 % of the teacher's latency, six trials."""
    given: dict[str, object] = {
        "budget_ms": 0.2 * latency_ms(TEACHER), "run_dir": run_dir, "trials": 6,
        "search_samples": 16, "controller": "tpe",
    }  # fmt: skip
    return SearchOptions(**given | changes)  # type: ignore[arg-type]
