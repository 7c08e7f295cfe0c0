"""What a measurement needs on disk, made in CANAO's environment.

    python -m peers.prepare weights MODEL FOLDER FILE      weights.safetensors, checked
    python -m peers.prepare artifact MODEL FOLDER DIR PRECISION [ISA]  CANAO's
    python -m peers.prepare unfused MODEL FOLDER DIR       CANAO's, one kernel for every layer
    python -m peers.prepare kernels MODEL FOLDER FILE LENGTH PRECISION  its kernels' work
    python -m peers.prepare case MODEL FOLDER TEXTS FILE   reference outputs and FLOPs, .npz
    python -m peers.prepare onnx MODEL FOLDER FILE LENGTH  length 0: dynamic
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from canao.artifact.files import write_whole
from canao.errors import CanaoError, InputError
from canao.fuse.group import Region
from canao.graph.ir import Graph, dim_at
from peers.models import Encoder, build_body, load_body, load_encoder, randomise, sensitivity
from peers.protocol import read_texts

LEAST_SENSITIVITY = 1e-3
_MAX_TOKENS = 512


def weights(name: str, out: str) -> None:
    """Random weights; InputError if a middle layer's attention hardly shows in the output."""
    body = build_body(name, "eager")
    randomise(body)
    moved = sensitivity(Encoder(body))
    if not moved >= LEAST_SENSITIVITY:
        raise InputError(
            f"{name}: without a layer's query the output moves by {moved:.1e} of its deviation, "
            f"less than {LEAST_SENSITIVITY:g}; scale the weights in benchmarks/peers/models.py"
        )
    save_file(body.state_dict(), out)


def artifact(name: str, folder: str, out: str, precision: str, isa: str = "") -> None:
    """Compile with CANAO, as one does who holds the module."""
    from canao.compiler.pipeline import compile_model
    from canao.target import get_target

    target = get_target().with_isa(isa) if isa else None
    compile_model(load_body(name, folder, "sdpa"), out, precision=precision, target=target)


def unfused(name: str, folder: str, out: str) -> None:
    """Compile with CANAO's layer fusion left out."""
    from canao.compiler.pipeline import compile_model

    compile_model(load_body(name, folder, "sdpa"), out, fusion=False)


def kernels(name: str, folder: str, out: str, length: str, precision: str) -> None:
    """[kernel, FLOPs, bytes, type of its products] of each kernel of the artifact in a precision,
    in the order of a profile.

    Bytes are those of the values that it must read and write once: its least traffic.
    """
    from canao.compiler.loading import load_model
    from canao.compiler.pipeline import compile_graph
    from canao.compiler.stages import region_flops
    from canao.lower.scheduling import product_of
    from canao.target import get_target

    _, graph = load_model(load_body(name, folder, "sdpa"))
    target, tokens = get_target(), int(length)
    stages = compile_graph(graph, target, precision=precision)
    rows = [
        [kernel, region_flops(stages.program.graph, region, tokens),
         region_bytes(stages.program.graph, region, tokens), product_of(region, target)]
        for kernel, region in zip(
            stages.schedule.kernel_names(), stages.program.regions, strict=True
        )
        if kernel  # an alias is no kernel
    ]  # fmt: skip
    write_whole(Path(out), json.dumps(rows) + "\n")


def region_bytes(graph: Graph, region: Region, tokens: int) -> int:
    """Bytes of the region's inputs and output; of a table that is gathered from, rows taken."""
    made = {n.output for n in region.nodes}
    read = {i for n in region.nodes for i in n.inputs} - made
    tables = {n.inputs[0]: n.output for n in region.nodes if n.op == "gather"}
    values = [tables.get(value, value) for value in read] + [region.output]
    return sum(
        dim_at(graph.types[v].elements, tokens) * graph.types[v].dtype.bytes for v in values
    )


@torch.no_grad()
def case(name: str, folder: str, texts: str, out: str) -> None:
    """Outputs of PyTorch on every text, and what the model is: FLOPs, sensitivity, parameters.

    FLOPs are 2 * multiply-adds of linears and attention's products, as FlopCounterMode sees
    them with eager attention, summed over the texts.
    """
    encoder = load_encoder(name, folder)
    flops, rows = 0, []
    for text in read_texts(texts):
        ids = torch.from_numpy(text)[None]
        with FlopCounterMode(display=False) as counter:
            rows.append(encoder(ids, torch.ones_like(ids))[0].numpy())
        flops += counter.get_total_flops()
    parameters = sum(p.numel() for p in encoder.parameters())
    np.savez(out, hidden=np.concatenate(rows), flops=flops, parameters=parameters,
             sensitivity=sensitivity(encoder))  # fmt: skip


def onnx(name: str, folder: str, out: str, length: str) -> None:
    """Export with eager attention by the dynamo exporter.

    MNN gets graphs of the older exporter wrong, and the others run this one as fast.
    """
    encoder, static = load_encoder(name, folder), int(length)
    ids = torch.zeros(1, static or 16, dtype=torch.long)
    shapes = None
    if not static:
        tokens = torch.export.Dim("tokens", min=2, max=_MAX_TOKENS)
        shapes = ({1: tokens}, {1: tokens})
    torch.onnx.export(
        encoder, (ids, torch.ones_like(ids)), out, dynamo=True, external_data=False,
        input_names=["input_ids", "attention_mask"], output_names=["hidden"],
        dynamic_shapes=shapes, verbose=False,
    )  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run one of the steps; a CANAO error is one line on standard error."""
    step, name, *rest = arguments
    steps: dict[str, Callable[..., None]] = {
        "weights": weights, "artifact": artifact, "unfused": unfused, "kernels": kernels,
        "case": case, "onnx": onnx,
    }  # fmt: skip
    try:
        steps[step](name, *rest)
    except CanaoError as error:
        print(f"{error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
