"""Loading what is compiled: a model directory, an .onnx file or a module, and its tokenizer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from canao.defaults import LIMITS, Limits
from canao.errors import InputError
from canao.graph.from_torch.trace import trace
from canao.graph.ir import Graph, Ids
from canao.model.directory.hub import ModelPlace, resolve
from canao.model.directory.loaded_model import (
    LoadedModel,
    check_directory,
    load_directory,
    parts_of,
    survey,
)
from canao.model.directory.onnx_sidecar import read_sidecar, root, tokenizer_folder
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT
from canao.model.sentence.embedding import with_embedding
from canao.model.tokenizing.tokenizer import TokenizerFiles, read_tokenizer


def locate(
    model: str | Path | Any, revision: str | None = None, ignored: Collection[str] = ()
) -> tuple[Path | Any, ModelPlace | None]:
    """What `load_model` and `load_tokenizer` read, and the place it is at; a module has none.

    A name of the Hub becomes the directory that its files were fetched into; a directory, an .onnx
    file and a module stay what they are. `revision` and `ignored` are those of `hub.resolve`.
    """
    if not isinstance(model, (str, Path)):
        if revision is not None:
            raise InputError(f"a module has no revision '{revision}'; give a name on the Hub")
        return model, None
    place = resolve(model, revision, ignored)
    return place.path, place


def inventory_of(
    model: str | Path | Any, ignored: Collection[str] = (), place: ModelPlace | None = None
) -> Inventory:
    """An inventory for a model's directory, in which nothing is noted yet but for the files of
    `place` that were not fetched from the Hub."""
    if not isinstance(model, (str, Path)):
        return Inventory(Path("."), ignored)
    found = Inventory(root(Path(model)) if _is_onnx(model) else Path(model), ignored)
    if place is not None:
        place.note(found)
    return found


def load_model(
    model: str | Path | Any, max_length: int | None = None, inventory: Inventory | None = None,
    limits: Limits = LIMITS,
) -> tuple[LoadedModel, Graph]:  # fmt: skip
    """A Hugging Face directory, an .onnx file or a torch module, and its graph."""
    if _is_onnx(model):
        return _load_onnx(Path(model), max_length, inventory, limits)
    if isinstance(model, (str, Path)):
        source = load_directory(model, inventory, limits)
    elif hasattr(model, "forward"):
        source = LoadedModel(model.eval(), getattr(model, "config", None), None)
    else:
        raise InputError(f"cannot compile {type(model).__name__}; give a directory or a module")
    limit = source.max_length
    if max_length is not None and not 2 <= max_length <= limit:
        raise InputError(f"maximum length {max_length} is outside 2..{limit} of this model")
    module = source.module
    if source.sentence is not None:
        module = with_embedding(module, source.sentence, source.config.hidden_size)
    graph = trace(module, max_length or limit, limits).replace(
        parts=parts_of(module, source.config)
    )
    if max_length is not None and graph.max_length < max_length:
        allowed = graph.max_length
        raise InputError(f"maximum length {max_length} is outside 2..{allowed} of this model")
    return source, graph


def load_graph(
    model: str | Path | Any, *, revision: str | None = None, max_length: int | None = None,
    ignored: Collection[str] = (), limits: Limits = LIMITS,
) -> Graph:  # fmt: skip
    """The graph alone of what `compile_model` takes, by the same options."""
    found, place = locate(model, revision, ignored)
    return load_model(found, max_length, inventory_of(found, ignored, place), limits)[1]


def _is_onnx(model: str | Path | Any) -> bool:
    return isinstance(model, (str, Path)) and Path(model).suffix.lower() == ".onnx"


def load_tokenizer(
    model: str | Path | Any, inventory: Inventory | None = None
) -> TokenizerFiles | None:
    """The tokenizer that lies with a model, converted if it must be; a module has none.

    Nothing else of the model is read: what is wrong with its tokenizer is known in seconds.
    """
    if not isinstance(model, (str, Path)):
        return None
    found = inventory or inventory_of(model)
    if _is_onnx(model):
        folder = tokenizer_folder(model, found)
    else:
        folder = survey(Path(model), found)
        check_directory(folder)
    tokenizer = read_tokenizer(folder, found)
    found.require()
    return tokenizer


def check_vocabulary(tokenizer: TokenizerFiles | None, source: LoadedModel, graph: Graph) -> None:
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
    most = max(tokenizer.given, default=-1) if tokenizer is not None else -1
    if rows is not None and rows <= most:
        raise InputError(
            f"{source.path}: the tokenizer puts id {most} into every text, the model has vectors "
            f"for {rows}; put the model's own tokenizer there"
        )


def _load_onnx(
    path: Path, max_length: int | None, inventory: Inventory | None, limits: Limits
) -> tuple[LoadedModel, Graph]:
    from canao.graph.from_onnx.importer import import_text
    from canao.graph.from_onnx.left_out import left_out
    from canao.graph.from_onnx.load import load

    if max_length is not None and max_length < 2:
        raise InputError(f"maximum length {max_length} is too short; give at least 2")
    held = load(path, limits)
    graph = import_text(held, max_length, limits)
    last = {name: graph.shape(value)[-1:] for name, value in graph.outputs}
    columns = {name: d[0] if d and isinstance(d[0], int) else None for name, d in last.items()}
    own = inventory or Inventory(root(path))
    source = read_sidecar(path, columns, own)
    for what, why in left_out(held, graph):
        own.note(path, what, INERT, why)
    if inventory is None:
        own.require()
    # The first output is the one that tasks read.
    return source, graph.replace(outputs=tuple(
        sorted(graph.outputs, key=lambda output: output[0] != source.result)
    ))  # fmt: skip
