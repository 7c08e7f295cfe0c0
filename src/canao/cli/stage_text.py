"""The stages of a compilation as text, for `canao compile --emit`."""

from __future__ import annotations

from canao.compiler.stages import NOMINAL_LENGTH, Level, Stages, region_flops
from canao.fuse.forms.form import form_name
from canao.graph.text import format_graph, format_node


def format_stage(stage: str, stages: Stages) -> str:
    """One stage of a compilation as text.

    graph    the graph as captured
    fused    the rewrites, the merges, and the regions that they left
    plan     the plan, memory and work of each region, for each instruction set
    source   the C, likewise
    """
    if stage == "graph":
        return format_graph(stages.captured)
    if stage == "fused":
        return _fused(stages)
    if stage == "source":
        return "".join(level.source.code for level in stages.levels)
    if len(stages.levels) == 1:
        return _plan(stages.widest)
    return "".join(f"{level.target.isa}: {_plan(level)}" for level in stages.levels)


def _fused(stages: Stages) -> str:
    program = stages.program
    lines = [f"program: {stages.operators} operators -> {stages.kernels} kernels"]
    lines += [f"rewrite {f.rule} at {f.value} ({f.where})" for f in stages.firings]
    lines += [f"merge {m.producer} + {m.consumer}: {m.cell}, {m.result}" for m in program.log]
    for i, region in enumerate(program.regions):
        lines.append(f"region {i}: {form_name(region.form)}, {region.mapping} {{")
        lines += [f"  {format_node(program.graph, n)}" for n in region.nodes]
        lines.append(f"}} -> {', '.join(region.outputs)}")
    return "\n".join(lines) + "\n"


def _plan(level: Level) -> str:
    schedule, program = level.schedule, level.program
    memory = schedule.memory
    lines = [
        f"arena {memory.size} bytes, scratch {schedule.scratch} bytes a thread, "
        f"weights {schedule.weights.file_size} bytes, {sum(memory.barriers)} barriers"
    ]
    rows = zip(program.regions, level.plans, level.tuned, schedule.kernel_names(),
               memory.barriers, strict=True)  # fmt: skip
    for i, (region, plan, tuned, name, waits) in enumerate(rows):
        made = ", ".join(f"{name} at {memory.offsets.get(name, '-')}" for name in region.outputs)
        flops = region_flops(program.graph, region, NOMINAL_LENGTH)
        how = f"{plan.name} tuned" if tuned else plan.name
        lines.append(
            f"{'wait ' if waits else '     '}{i}: {name or 'alias'} plan {how} "
            f"-> {made}, "
            f"{flops} flops at {NOMINAL_LENGTH}"
        )
    return "\n".join(lines) + "\n"
