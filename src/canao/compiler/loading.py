"""Loading what is compiled: a model directory, an .onnx file or a module, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from canao.errors import InputError
from canao.graph.from_torch.trace import trace
from canao.graph.ir import Graph, Ids
from canao.model.embedding import with_embedding
from canao.model.loaded_model import LoadedModel, check_directory, load_directory
from canao.model.onnx_sidecar import read_sidecar
from canao.model.sentence import transformer_directory
from canao.model.tokenizer import TokenizerFiles, read_tokenizer


def load_model(model: str | Path | Any, max_length: int | None = None) -> tuple[LoadedModel, Graph]:
    """A Hugging Face directory, an .onnx file or a torch module, and its graph."""
    if _is_onnx(model):
        return _load_onnx(Path(model), max_length)
    if isinstance(model, (str, Path)):
        source = load_directory(model)
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
        return read_tokenizer(read_sidecar(model, None).path)
    if not isinstance(model, (str, Path)):
        return None
    check_directory(transformer_directory(Path(model)))
    return read_tokenizer(transformer_directory(Path(model)))


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


def _load_onnx(path: Path, max_length: int | None) -> tuple[LoadedModel, Graph]:
    from canao.graph.from_onnx.importer import import_text
    from canao.graph.from_onnx.load import load

    if max_length is not None and max_length < 2:
        raise InputError(f"maximum length {max_length} is too short; give at least 2")
    graph = import_text(load(path), max_length)
    columns = graph.shape(graph.outputs[0][1])[-1:]
    width = columns[0] if columns and isinstance(columns[0], int) else None
    return read_sidecar(path, width), graph
