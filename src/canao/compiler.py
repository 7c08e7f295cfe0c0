"""The pipeline: model -> graph -> fuse -> plan -> emit -> build -> artifact.

`Stages` holds what each step made; `compile_model` runs all of them and writes the artifact.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from canao.artifact.directory import (
    FORMAT,
    Artifact,
    file_digest,
    fingerprint,
    staged_directory,
    write_json,
)
from canao.build import (
    Toolchain,
    build_library,
    cache_directory,
    code_stamp,
    get_toolchain,
)
from canao.emit.c.inputs import runtime_limit
from canao.emit.c.unit import Source, emit
from canao.errors import InputError, ToolchainError
from canao.fuse.group import Program, Region, fuse, unfused
from canao.fuse.rewrite import Firing, apply, shared, stored
from canao.fuse.rules.algebra import ALGEBRA, CLEANUP
from canao.fuse.yellow_cells import YellowCellPolicy, policy
from canao.graph.bounds import require_bounds
from canao.graph.from_torch.trace import trace
from canao.graph.ir import Graph, Ids
from canao.graph.ops import OPS
from canao.graph.resume import resuming
from canao.lower.scheduling import (
    backend_of,
    default_plan,
    default_plans,
    schedule_program,
    space,
)
from canao.machine import Machine, local_machine
from canao.model.embedding import with_embedding
from canao.model.onnx_sidecar import beside
from canao.model.padding import ignores_left_padding
from canao.model.sentence import transformer_directory
from canao.model.source import Source as ModelSource
from canao.model.source import check_directory, load_source
from canao.model.task import describe_head, stop_tokens
from canao.model.tokenizer import TokenizerFiles, read_tokenizer
from canao.schedule.database import VERSION, Database
from canao.schedule.plan import Plan
from canao.schedule.plan_choice import tuned_plans
from canao.schedule.schedule import Schedule
from canao.schedule.weights import file_parts
from canao.target import Target, get_target

# FLOPs in the manifest are given at this length, the paper's (section 4.1).
NOMINAL_LENGTH = 128
# How the plans of a program are chosen.
Planner = Callable[[Program, Target], Sequence[Plan]]


@dataclass(frozen=True, slots=True)
class Stages:
    """Everything between the captured graph and the C text.

    captured   as imported, one node for each operator of the source model
    program    after rewrites, cut into regions
    """

    captured: Graph
    firings: tuple[Firing, ...]
    program: Program
    plans: tuple[Plan, ...]
    schedule: Schedule
    source: Source
    target: Target

    @property
    def operators(self) -> int:
        """How many operators the model has before fusion."""
        return len(self.captured.nodes)

    @property
    def kernels(self) -> int:
        """How many kernels are left after fusion."""
        return len(self.program.regions)

    @property
    def tuned(self) -> tuple[bool, ...]:
        """For each region, whether its plan is another than the default."""
        defaults = default_plans(self.program, self.target)
        return tuple(p != d for p, d in zip(self.plans, defaults, strict=True))


def tuning_database(
    target: Target, toolchain: Toolchain | None = None, machine: Machine | None = None
) -> Database:
    """What `canao tune` measured for a target on a machine, by default this one, with the code as
    it is now. What was measured elsewhere, or with other code, is kept under other keys."""
    stamp = code_stamp(toolchain or get_toolchain())
    place = (
        f"{target.name} {target.isa} {target.triple} {target.cpu} L2 {target.l2_bytes}; "
        f"{(machine or local_machine()).stamp}; code {stamp}"
    )
    path = cache_directory() / f"tuning-{VERSION}.sqlite"
    return Database(path, place, backend_of(target).plan_types)


def best_plans(
    program: Program, target: Target, toolchain: Toolchain | None = None
) -> tuple[Plan, ...]:
    """Tuned plans where this machine is the target and was tuned for it, else the defaults."""
    if target.name != "host":
        return default_plans(program, target)
    return chosen_plans(program, target, tuning_database(target, toolchain))


def chosen_plans(program: Program, target: Target, database: Database) -> tuple[Plan, ...]:
    """The plan of each region that measurements speak for, else its default."""
    tuned = tuned_plans(program, lambda region: space(region, target), database)
    return tuple(plan or default_plan(region, target)
                 for plan, region in zip(tuned, program.regions, strict=True))  # fmt: skip


def measured_yellow_cells(target: Target) -> YellowCellPolicy:
    """What measurements say of fusion for a target: those of this machine, if it is the target."""
    stamp = local_machine().stamp if target.name == "host" else None
    return policy(backend_of(target).name, stamp)


def lower(
    graph: Graph, target: Target, *, fusion: bool = True,
    yellow_cells: YellowCellPolicy | None = None, planner: Planner = best_plans,
) -> Stages:  # fmt: skip
    """All steps from the captured graph to C. `yellow_cells` decides those of fusion, by default
    from what was measured on the target's machine or on others; `planner` how each region runs:
    `default_plans` takes no heed of measurements."""
    cleaned, cleanup = apply(graph, CLEANUP)
    cleaned, legal = resuming(cleaned), backend_of(target).legal
    if fusion:
        rewritten, algebra = apply(cleaned, ALGEBRA)
        decided = yellow_cells or measured_yellow_cells(target)
        program = fuse(stored(require_bounds(shared(rewritten))), legal, decided)
    else:
        algebra, program = (), unfused(stored(require_bounds(cleaned)), legal)
    plans = tuple(planner(program, target))
    schedule = schedule_program(program, plans, target)
    source = emit(schedule, target)
    return Stages(cleaned, (*cleanup, *algebra), program, plans, schedule, source, target)


def load_model(model: str | Path | Any, max_length: int | None = None) -> tuple[ModelSource, Graph]:
    """A Hugging Face directory, an .onnx file or a torch module, and its graph."""
    if _is_onnx(model):
        return _load_onnx(Path(model), max_length)
    if isinstance(model, (str, Path)):
        source = load_source(model)
    elif hasattr(model, "forward"):
        source = ModelSource(model.eval(), getattr(model, "config", None), None)
    else:
        raise InputError(f"cannot compile {type(model).__name__}; give a directory or a module")
    limit = source.max_length
    if max_length is not None and not 2 <= max_length <= limit:
        raise InputError(f"maximum length {max_length} is outside 2..{limit} of this model")
    module = source.module
    if source.sentence is not None:
        module = with_embedding(module, source.sentence, source.config.hidden_size)
    graph = trace(module, max_length or limit)
    if max_length is not None and graph.max_length < max_length:
        allowed = graph.max_length
        raise InputError(f"maximum length {max_length} is outside 2..{allowed} of this model")
    return source, graph


def _is_onnx(model: str | Path | Any) -> bool:
    return isinstance(model, (str, Path)) and Path(model).suffix.lower() == ".onnx"


def load_tokenizer(model: str | Path | Any) -> TokenizerFiles | None:
    """The tokenizer that lies with a model, converted if it must be; a module has none.

    Nothing else of the model is read: what is wrong with its tokenizer is known in seconds.
    """
    if _is_onnx(model):
        return read_tokenizer(beside(model, None).path)
    if not isinstance(model, (str, Path)):
        return None
    check_directory(transformer_directory(Path(model)))
    return read_tokenizer(transformer_directory(Path(model)))


def check_vocabulary(tokenizer: TokenizerFiles | None, source: ModelSource, graph: Graph) -> None:
    """InputError if texts may hold tokens that the model has no vector for.

    Tokens that were added to a tokenizer without its model, for padding say, are let pass.
    """
    kind = next((i.kind for i in graph.inputs if i.name == "input_ids"), None)
    rows = kind.limit if isinstance(kind, Ids) else None
    if tokenizer is not None and rows is not None and rows < tokenizer.ids:
        raise InputError(
            f"{source.path}: the tokenizer has {tokenizer.ids} tokens, the model vectors for "
            f"{rows}; put the model's own tokenizer there"
        )


def _load_onnx(path: Path, max_length: int | None) -> tuple[ModelSource, Graph]:
    from canao.graph.from_onnx.importer import import_text
    from canao.graph.from_onnx.load import load

    if max_length is not None and max_length < 2:
        raise InputError(f"maximum length {max_length} is too short; give at least 2")
    graph = import_text(load(path), max_length)
    columns = graph.shape(graph.outputs[0][1])[-1:]
    return beside(path, columns[0] if columns and isinstance(columns[0], int) else None), graph


def compile_model(
    model: str | Path | Any,
    out: str | Path,
    *,
    target: Target | None = None,
    fusion: bool = True,
    max_length: int | None = None,
    toolchain: Toolchain | None = None,
    build_flags: Sequence[str] = (),
    yellow_cells: YellowCellPolicy | None = None,
    tuned: bool = True,
) -> Artifact:
    """Compile a Hugging Face directory, .onnx file or torch module into the directory `out`.

    Kernels run as `canao tune` found best on this machine; all by default plans where it is
    not the target, where nothing was tuned, or without `tuned`.

    An artifact already at `out` is replaced, once the new one is whole; any other existing
    directory that is not empty is refused. Raises InputError, UnsupportedError or ToolchainError.
    """
    out = Path(out)
    _check_destination(out)
    target = target or get_target()
    toolchain = toolchain or get_toolchain()
    tokenizer = load_tokenizer(model)
    source, graph = load_model(model, max_length)
    check_vocabulary(tokenizer, source, graph)
    planner = partial(best_plans, toolchain=toolchain) if tuned else default_plans
    stages = lower(graph, target, fusion=fusion, yellow_cells=yellow_cells, planner=planner)
    manifest = _manifest(source, stages, target, toolchain, fusion)  # refuses before it is built
    manifest["tokenizer"] = dict(tokenizer.description) if tokenizer else None
    sources = {"program.c": stages.source.code, "canao_model.h": stages.source.header}
    library = build_library(sources, target, toolchain, build_flags)
    try:
        return _write(out, tokenizer, stages, library, manifest)
    except OSError as error:
        raise ToolchainError(
            f"{out}: cannot be written ({error.strerror}); free space or name another directory"
        ) from None


def _check_destination(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a directory for the artifact")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise InputError(f"{out}: is not empty and holds no artifact; name another directory")
    above = next(p for p in out.absolute().parents if p.exists())
    try:
        # Only trying tells: permissions, read-only file systems, a file in the middle of the path.
        with tempfile.TemporaryDirectory(dir=above, prefix=".canao-"):
            pass
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror}: {above}); name another directory"
        ) from None


def _write(
    out: Path, tokenizer: TokenizerFiles | None, stages: Stages, library: Path,
    manifest: dict[str, Any],
) -> Artifact:  # fmt: skip
    with staged_directory(out) as staged:
        shutil.copyfile(library, staged / "model.so")
        (staged / "canao_model.h").write_text(stages.source.header, encoding="utf-8")
        with open(staged / "weights.bin", "wb") as stream:
            for part in file_parts(stages.program.graph, stages.schedule.weights):
                stream.write(part)
        for name, content in tokenizer.contents.items() if tokenizer else ():
            (staged / name).write_bytes(content)
        manifest["files"] = {p.name: file_digest(p) for p in sorted(staged.iterdir())}
        manifest["fingerprint"] = fingerprint(staged / "weights.bin")
        write_json(staged / "manifest.json", manifest)
    return Artifact.load(out)


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
        "model": getattr(config, "model_type", source.kind),
        **describe_head(source, [name for name, _ in graph.outputs]),
        "stop_tokens": stop_tokens(source.config),
        "left_padding": ignores_left_padding(source),
        **interface(graph),
        "fusion": fusion,
        "operators": stages.operators,
        "parameters": parameter_count(stages),
        "flops": {"length": NOMINAL_LENGTH, "total": total_flops(stages, NOMINAL_LENGTH)},
        "rewrites": counts([f.rule for f in stages.firings]),
        "kernels": [
            {
                "name": name or "alias",
                "plan": plan.name,
                "tuned": tuned,
                "ops": list(region.ops),
                "output": region.output,
                "flops": region_flops(graph, region, NOMINAL_LENGTH),
            }
            for name, plan, tuned, region in zip(
                stages.schedule.kernel_names(), stages.plans, stages.tuned, stages.program.regions,
                strict=True,
            )
        ],
    }


def interface(graph: Graph) -> dict[str, Any]:
    """The part of a manifest that says how the library is called."""
    return {
        "inputs": [
            {
                "name": i.name,
                "dtype": i.type.dtype.numpy.name,
                "shape": ["s"],
                "limit": runtime_limit(i),
            }
            for i in graph.inputs
            if i.given
        ],
        "outputs": [
            {
                "name": name,
                "dtype": graph.types[value].dtype.numpy.name,
                "shape": [str(d) if not isinstance(d, int) else d for d in graph.shape(value)],
            }
            for name, value in graph.outputs
        ],
        "max_length": graph.max_length,
        "resumes": graph.resumes,
    }


def counts(names: Sequence[str]) -> dict[str, int]:
    """How often each name occurs, in the order of first occurrence."""
    return {name: names.count(name) for name in dict.fromkeys(names)}


def region_flops(graph: Graph, region: Region, length: int) -> int:
    """Floating-point operations of a region at `length` tokens (at most the model's maximum)."""
    s = min(length, graph.max_length)
    return sum(
        OPS[n.op].flops([graph.types[i] for i in n.inputs], graph.types[n.output], s)
        for n in region.nodes
    )


def total_flops(stages: Stages, length: int) -> int:
    """Floating-point operations of one text of `length` tokens."""
    graph = stages.program.graph
    return sum(region_flops(graph, r, length) for r in stages.program.regions)


def parameter_count(stages: Stages) -> int:
    graph = stages.captured
    return sum(a.size for name, a in graph.constants.items()
               if graph.types[name].dtype.kind == "float")  # fmt: skip
