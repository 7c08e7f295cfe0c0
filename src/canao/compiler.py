"""The pipeline: model -> graph -> fuse -> plan -> emit -> build -> artifact.

`Stages` holds what each step made; `compile_model` runs all of them and writes the artifact.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from canao.artifact import FORMAT, Artifact, file_digest, write_json
from canao.build import Toolchain, build_library, get_toolchain
from canao.emit.c import Source, emit
from canao.errors import InputError, ToolchainError
from canao.fuse.algebra import ALGEBRA, CLEANUP
from canao.fuse.concat import Concat
from canao.fuse.form import Alias, Attention, Matmul, Product
from canao.fuse.group import Profile, Program, Region, fuse, unfused
from canao.fuse.profile import decided
from canao.fuse.rewrite import Firing, apply, shared
from canao.fuse.scan import Scan
from canao.graph.ir import Graph
from canao.graph.ops import OPS
from canao.graph.trace import trace
from canao.model.source import Source as ModelSource
from canao.model.source import load_source
from canao.schedule.plan import Plan, default_plans
from canao.schedule.weights import file_parts
from canao.target import Target, get_target

# FLOPs and layer tables in the manifest are given at this length, the paper's (section 4.1).
NOMINAL_LENGTH = 128
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Stages:
    """Everything between the captured graph and the C text.

    captured   as imported, one node a layer of the source model
    program    after rewrites, cut into regions
    """

    captured: Graph
    firings: tuple[Firing, ...]
    program: Program
    plans: tuple[Plan, ...]
    source: Source

    @property
    def layers_before(self) -> int:
        return len(self.captured.nodes)

    @property
    def layers_after(self) -> int:
        return len(self.program.regions)


def lower(
    graph: Graph, target: Target, *, fusion: bool = True, profile: Profile = decided
) -> Stages:
    """All steps from the captured graph to C. `profile` decides the yellow cells of fusion."""
    cleaned, cleanup = apply(graph, CLEANUP)
    if fusion:
        rewritten, algebra = apply(cleaned, ALGEBRA)
        program = fuse(shared(rewritten), profile)
    else:
        algebra, program = (), unfused(cleaned)
    plans = default_plans(program, target)
    return Stages(cleaned, (*cleanup, *algebra), program, plans, emit(program, plans, target))


def load_model(model: str | Path | Any, max_length: int | None = None) -> tuple[ModelSource, Graph]:
    """A Hugging Face directory or a torch module, and its graph."""
    if isinstance(model, (str, Path)):
        source = load_source(model)
    elif hasattr(model, "forward"):
        source = ModelSource(model.eval(), getattr(model, "config", None), None)
    else:
        raise InputError(f"cannot compile {type(model).__name__}; give a directory or a module")
    limit = source.max_length
    if max_length is not None and not 2 <= max_length <= limit:
        raise InputError(f"maximum length {max_length} is outside 2..{limit} of this model")
    graph = trace(source.module, max_length or limit)
    if max_length is not None and graph.max_length < max_length:
        allowed = graph.max_length
        raise InputError(f"maximum length {max_length} is outside 2..{allowed} of this model")
    return source, graph


def compile_model(
    model: str | Path | Any,
    out: str | Path,
    *,
    target: Target | None = None,
    fusion: bool = True,
    max_length: int | None = None,
    toolchain: Toolchain | None = None,
    build_flags: Sequence[str] = (),
    profile: Profile = decided,
) -> Artifact:
    """Compile a Hugging Face directory or a torch module into the artifact directory `out`.

    An artifact already at `out` is replaced, once the new one is whole; any other existing
    directory that is not empty is refused. Raises InputError, UnsupportedError or ToolchainError.
    """
    out = Path(out)
    _check_destination(out)
    target = target or get_target()
    toolchain = toolchain or get_toolchain()
    source, graph = load_model(model, max_length)
    stages = lower(graph, target, fusion=fusion, profile=profile)
    sources = {"program.c": stages.source.code, "canao_model.h": stages.source.header}
    library = build_library(sources, target, toolchain, build_flags)
    try:
        return _write(
            out, source, stages, library, _manifest(source, stages, target, toolchain, fusion)
        )
    except OSError as error:
        raise ToolchainError(
            f"{out}: cannot be written ({error.strerror}); free space or name another directory"
        ) from None


def _check_destination(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a directory for the artifact")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise InputError(f"{out}: is not empty and holds no artifact; name another directory")


def _write(
    out: Path, source: ModelSource, stages: Stages, library: Path, manifest: dict[str, Any]
) -> Artifact:
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        shutil.copyfile(library, staged / "model.so")
        (staged / "canao_model.h").write_text(stages.source.header, encoding="utf-8")
        with open(staged / "weights.bin", "wb") as stream:
            for part in file_parts(stages.program.graph, stages.source.weights):
                stream.write(part)
        _copy_tokenizer(source, staged)
        manifest["files"] = {p.name: file_digest(p) for p in sorted(staged.iterdir())}
        write_json(staged / "manifest.json", manifest)
        staged.chmod(0o755)
        old = out.with_name(f".{out.name}.old-{os.getpid()}")
        if out.exists():
            os.replace(out, old)
        os.replace(staged, out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return Artifact.load(out)


def _copy_tokenizer(source: ModelSource, staged: Path) -> None:
    """The model's tokenizer; one that has a vocabulary only is converted to tokenizer.json."""
    if source.path is None:
        return
    for name in _TOKENIZER_FILES:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, staged / name)
    older = (source.path / "vocab.txt").is_file()
    if older and not (staged / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source.path, local_files_only=True)
            tokenizer.backend_tokenizer.save(str(staged / "tokenizer.json"))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"{source.path}/vocab.txt: cannot be read as a tokenizer ({error})"
            ) from None


def _manifest(
    source: ModelSource, stages: Stages, target: Target, toolchain: Toolchain, fusion: bool
) -> dict[str, Any]:
    graph = stages.program.graph
    config = source.config
    return {
        "format": FORMAT,
        "canao": version("canao"),
        "toolchain": f"{toolchain.name} {toolchain.version.splitlines()[0]}",
        "target": {"name": target.name, "isa": target.isa, "triple": target.triple},
        "model": getattr(config, "model_type", type(source.module).__name__),
        "task": _task(source),
        "labels": list(source.labels),
        "inputs": [
            {"name": i.name, "dtype": "int32", "shape": ["s"], "limit": i.limit}
            for i in graph.inputs
        ],
        "outputs": [
            {
                "name": name,
                "dtype": "float32",
                "shape": [str(d) if not isinstance(d, int) else d for d in graph.shape(value)],
            }
            for name, value in graph.outputs
        ],
        "max_length": graph.max_length,
        "fusion": fusion,
        "layers": {"before": stages.layers_before, "after": stages.layers_after},
        "parameters": sum(
            a.size for a in stages.captured.constants.values() if a.dtype == "float32"
        ),
        "flops": {
            "length": NOMINAL_LENGTH,
            "total": sum(region_flops(graph, r, NOMINAL_LENGTH) for r in stages.program.regions),
        },
        "rewrites": _counted([f.rule for f in stages.firings]),
        "kernels": [
            {
                "name": name or "alias",
                "plan": plan.name,
                "ops": list(region.ops),
                "output": region.output,
                "flops": region_flops(graph, region, NOMINAL_LENGTH),
            }
            for name, plan, region in zip(
                stages.source.kernel_names, stages.plans, stages.program.regions, strict=True
            )
        ],
    }


def _task(source: ModelSource) -> str:
    kind = type(source.module).__name__
    if kind.endswith("ForSequenceClassification"):
        return "text-regression" if source.config.num_labels == 1 else "text-classification"
    return (
        "token-classification" if kind.endswith("ForTokenClassification") else "feature-extraction"
    )


def _counted(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in dict.fromkeys(names)}


def region_flops(graph: Graph, region: Region, length: int) -> int:
    """Floating-point operations of a region at `length` tokens (at most the model's maximum)."""
    s = min(length, graph.max_length)
    return sum(
        OPS[n.op].flops([graph.types[i] for i in n.inputs], graph.types[n.output], s)
        for n in region.nodes
    )


def form_name(region: Region) -> str:
    form = region.form
    names = {Alias: "alias", Attention: "attention", Concat: "concat", Matmul: "matmul",
             Product: "product", Scan: "scan"}  # fmt: skip
    return names.get(type(form), "rows")
