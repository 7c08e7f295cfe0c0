"""Packaging: a built library, its weights and its tokenizer become an artifact."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from canao.artifact.directory import ARTIFACT_FORMAT, Artifact
from canao.artifact.files import file_digest, fingerprint, staged_directory, write_json
from canao.artifact.manifest import sealed
from canao.artifact.temporary import WorkingDirectory
from canao.build import Toolchain, runtime_files
from canao.compiler.heads import describe
from canao.compiler.stages import (
    NOMINAL_LENGTH,
    Level,
    Stages,
    counts,
    parameter_count,
    region_flops,
    total_flops,
)
from canao.emit.c.interface import interface
from canao.errors import InputError
from canao.fuse.group import Region
from canao.isa.table import FLOAT
from canao.lower.scheduling import half_block, product_of
from canao.model.directory.loaded_model import LoadedModel
from canao.model.directory.padding import ignores_left_padding
from canao.model.inventory.inventory import Inventory
from canao.model.tokenizing.tokenizer import TokenizerFiles
from canao.precision.agreement import agreement
from canao.precision.quantize import FLOAT32
from canao.schedule.weights import HEADER, file_parts
from canao.target import Target


def check_destination(out: Path) -> None:
    """InputError if no artifact can be written to `out`."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a directory for the artifact")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise InputError(f"{out}: is not empty and holds no artifact; name another directory")
    above = next(p for p in out.absolute().parents if p.exists())
    try:
        # Only trying tells: permissions, read-only file systems, a file in the middle of the path.
        with WorkingDirectory("canao-probe", above):
            pass
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror}: {above}); name another directory"
        ) from None


def write_artifact(
    out: Path, tokenizer: TokenizerFiles | None, stages: Stages, library: Path,
    manifest: dict[str, Any],
) -> Artifact:  # fmt: skip
    """Write an artifact whole, or not at all."""
    with staged_directory(out) as staged:
        shutil.copyfile(library, staged / library.name)
        headers = {"canao_model.h": stages.source.header, **runtime_files("canao_pick.h")}
        for name, text in headers.items():
            (staged / name).write_text(text, encoding="utf-8")
        with open(staged / "weights.bin", "wb") as stream:
            for part in file_parts(stages.program.graph, stages.schedule.weights):
                stream.write(part)
        for name, content in tokenizer.contents.items() if tokenizer else ():
            (staged / name).write_bytes(content)
        manifest["files"] = {p.name: file_digest(p) for p in sorted(staged.iterdir())}
        manifest["fingerprint"] = fingerprint(staged / "weights.bin")
        write_json(staged / "manifest.json", sealed(manifest))
    return Artifact.load(out)


def compared(stages: Stages) -> dict[str, float] | None:
    """How far the outputs of random texts are from those in float32; None where they are these."""
    exact = stages.precision == stages.kv_cache == FLOAT32
    if exact and not any(map(stages.kept_in, stages.others)):
        return None
    called = stages.precision if stages.kv_cache == FLOAT32 else (
        f"{stages.precision} with keys and values in {stages.kv_cache}"
    )
    block = half_block(stages.target)
    return asdict(agreement(stages.float32, stages.program.graph, called, block))


def _kv_cache(stages: Stages) -> dict[str, Any] | None:
    """How keys and values of earlier tokens are kept; None where there are none."""
    size = stages.schedule.cache.size
    return {"precision": stages.kv_cache, "bytes": size} if size else None


def _product(region: Region, target: Target) -> dict[str, str]:
    """What a kernel's products are of, unless it is float32."""
    product = product_of(region, target)
    return {} if product == FLOAT else {"product": product}


def make_manifest(
    source: LoadedModel, stages: Stages, target: Target, toolchain: Toolchain, fusion: bool,
    inventory: Inventory,
) -> dict[str, Any]:  # fmt: skip
    """What an artifact says of itself, but for its files and tokenizer. Nothing of the model's
    directory is read after this: what is left of it is refused, or without effect."""
    graph = stages.program.graph
    config = source.config
    head = describe(source, stages.captured, inventory)
    del head["head_end"]
    inventory.close()
    narrower = [
        {"isa": level.target.isa, "features": list(level.target.features),
         "kernels": _kernels(level)}
        for level in stages.levels[:-1]
    ]
    return {
        "format": ARTIFACT_FORMAT,
        "canao": version("canao"),
        "toolchain": f"{toolchain.name} {toolchain.version.splitlines()[0]}",
        "target": target.entry,
        "library": target.library,
        "model": getattr(config, "model_type", source.kind),
        **head,
        "left_padding": ignores_left_padding(source),
        "left_out": [[f.name, f.note] for f in inventory.left_out],
        **interface(graph),
        "fusion": fusion,
        "precision": stages.precision,
        "smoothed": list(stages.smoothed_at),
        "kept": {p: list(stages.kept_in(p)) for p in stages.others},
        "kv_cache": _kv_cache(stages),
        "agreement": compared(stages),
        "operators": stages.operators,
        "parameters": parameter_count(stages),
        "flops": {"length": NOMINAL_LENGTH, "total": total_flops(stages, NOMINAL_LENGTH)},
        "rewrites": counts([f.rule for f in stages.firings]),
        "kernels": _kernels(stages.widest),
        **({"narrower": narrower} if narrower else {}),
        **({"places": places} if (places := _places(stages)) else {}),
    }


def _places(stages: Stages) -> list[tuple[int, int]]:
    """The whole numbers of the weights file that say where to read in tables."""
    sections = stages.schedule.weights.sections
    return [(HEADER + s.offset, s.size) for s in sections
            if s.dtype.kind in ("bool", "int")]  # fmt: skip


def _kernels(level: Level) -> list[dict[str, Any]]:
    """The entries of a manifest for the kernels of one instruction set."""
    program = level.program
    rows = zip(
        level.schedule.kernel_names(), level.plans, level.tuned, program.regions, strict=True
    )
    return [
        {
            "name": name or "alias",
            "plan": plan.name,
            "tuned": tuned,
            "ops": list(region.ops),
            "output": region.output,
            "flops": region_flops(program.graph, region, NOMINAL_LENGTH),
            **({"beside": region.beside} if region.beside else {}),
            **({"cpu": True} if region.apart else {}),
            **_product(region, level.target),
        }
        for name, plan, tuned, region in rows
    ]
