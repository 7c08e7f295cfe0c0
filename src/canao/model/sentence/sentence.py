"""How Sentence-Transformers makes one vector of a text: by the modules after the model.

modules.json lists the modules in order: Transformer, Pooling, and whatever follows. This file reads
them and the settings of texts; modules.py reads what lies in their folders, and embedding.py
computes them, compiled with the model. A CrossEncoder of version 6 has the same files
(cross_encoder.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from canao.artifact.reading import read_json
from canao.errors import InputError, UnsupportedError
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT
from canao.model.inventory.tables.sentence import (
    LOADING,
    MODALITY,
    MODULES,
    PROCESSING,
    ROOT,
    TRANSFORMER,
    TRANSFORMER_FILES,
)
from canao.model.sentence.modules import (
    READERS,
    SENTENCE,
    TOKENS,
    Dense,
    Module,
    Normalize,
    Pooling,
    read_module,
)
from canao.model.sentence.setfit import Head, note_setfit, read_head

_LIST, _ROOT = "modules.json", "config_sentence_transformers.json"
# Where classes of modules are found in versions 2 to 6; a module's own name may stand twice.
_CLASS = re.compile(
    r"sentence_transformers\.(?:(?:base|sentence_transformer|cross_encoder|sparse_encoder"
    r"|multi_vector_encoder)\.modules|(?:sparse_encoder\.)?models)(?:\.\w+)?\.(\w+)"
)
_REFUSED = {
    "StaticEmbedding": "a table of words' vectors without a network is not compiled",
    "SparseStaticEmbedding": "sparse vectors are not supported",
    "SpladePooling": "sparse vectors (SPLADE) are not supported",
    "MLMTransformer": "sparse vectors (SPLADE) are not supported",
    "SparseAutoEncoder": "sparse vectors are not supported",
    "MultiVectorMask": "multi-vector models (ColBERT) are not supported",
    "HierarchicalTokenPooling": "multi-vector models (ColBERT) are not supported",
    "LambdaTokenPooling": "multi-vector models (ColBERT) are not supported",
    "LogitScore": "scores that a language model makes of its next token are not supported",
    "CLIPModel": "models of images are not supported",
    "LSTM": "recurrent networks are not supported",
    "BoW": "bags of words are not supported",
    "WordEmbeddings": "embeddings of whole words are not supported",
    "Router": "models that choose between modules are not supported; save the modules of one route "
    "as a model of their own",
    "Asym": "models that choose between modules are not supported; save the modules of one route "
    "as a model of their own",
}  # fmt: skip
_REMEDY = "compile a model whose modules are Transformer, Pooling and, besides them, "


@dataclass(frozen=True, slots=True)
class Texts:
    """How texts are read before they reach the model.

    max_tokens        longer sequences are truncated; None: the tokenizer sets no limit
    within_positions  they are also truncated to the model's number of positions
    lowercase         whether texts are put in lower case before anything else
    prompts           texts that may be put before a text, by name
    default_prompt    the name of the one that is put there if none is named; None for none
    """

    max_tokens: int | None = None
    within_positions: bool = True
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    @property
    def prompt(self) -> str:
        """The prompt of a text that names none."""
        return self.prompts[self.default_prompt] if self.default_prompt is not None else ""

    def to_dict(self, config: Any = None) -> dict[str, Any]:
        """As a manifest has it; `config` is the model's configuration."""
        limit = self.max_tokens
        positions = getattr(config, "max_position_embeddings", None)
        if self.within_positions and isinstance(positions, int) and positions > 0:
            limit = positions if limit is None else min(limit, positions)
        return {
            "max_tokens": limit,
            "lowercase": self.lowercase,
            "prompt": self.prompt,
            "prompts": dict(self.prompts),
        }


@dataclass(frozen=True, slots=True)
class Sentence:
    """How one vector is made of a text.

    transformer   the directory of the Transformers model and its tokenizer
    modules       what follows it, in order
    texts         how texts are read
    truncate_dim  how many numbers of the vector are kept; None: all
    head          a classifier of the vector (SetFit), or None
    typed         whether the tokenizer gives token type ids, which are 0 for a text alone
    """

    transformer: Path
    modules: tuple[Module, ...] = field(compare=False)
    texts: Texts = Texts()
    truncate_dim: int | None = None
    head: Head | None = field(default=None, compare=False)
    typed: bool = False

    @property
    def pooling(self) -> tuple[str, ...]:
        """The modes of the last Pooling."""
        return self._last_pooling.modes

    @property
    def max_tokens(self) -> int | None:
        return self.texts.max_tokens

    @property
    def leaves_out_prompts(self) -> bool:
        """Whether the tokens of a prompt are left out where token vectors are pooled."""
        pooled = any(isinstance(m, Pooling) and not m.include_prompt for m in self.modules)
        return pooled and any(self.texts.prompts.values())

    @property
    def needs_no_weights(self) -> bool:
        """Whether nothing but a pooling and a scaling to length 1 follows the model."""
        first, *rest = self.modules
        plain = all(m == Normalize() for m in rest) and self.head is None
        return isinstance(first, Pooling) and plain

    def to_dict(self, config: Any = None) -> dict[str, Any]:
        """The entry `pooling` of a manifest; `config` is the model's configuration."""
        dense = [module for module in self.modules if isinstance(module, Dense)]
        return {
            "modes": list(self.pooling),
            "dense": [[len(module.weight), module.activation] for module in dense],
            "normalize": any(
                m.target == SENTENCE for m in self.modules if isinstance(m, Normalize)
            ),
            **self.texts.to_dict(config),
            "include_prompt": not self.leaves_out_prompts,
            "truncate_dim": self.truncate_dim,
        }

    @property
    def _last_pooling(self) -> Pooling:
        return next(m for m in reversed(self.modules) if isinstance(m, Pooling))


@dataclass(frozen=True, slots=True)
class Listed:
    """A module as modules.json lists it: its class, and its folder."""

    kind: str
    folder: Path


def transformer_directory(path: Path) -> Path:
    """The directory of the Transformers model: `path`, or the part that modules.json names.

    UnsupportedError for modules that CANAO does not compile.
    """
    listed = modules_of(path)
    return listed[0].folder if listed else path


def module_folders(path: Path) -> list[Path]:
    """The folders of the modules that modules.json lists, but for the model's own."""
    return [module.folder for module in modules_of(path)[1:] if module.folder.is_dir()]


def read_sentence(path: Path | None, inventory: Inventory | None = None) -> Sentence | None:
    """The modules of a Sentence-Transformers directory; None for any other directory.

    UnsupportedError for modules of other kinds; what else is refused is noted in the inventory, or
    raised without one. InputError for files that cannot be read.
    """
    if path is None:
        return None
    found = inventory or Inventory(path)
    note_setfit(path, found)
    listed, root = read_list(path, found)
    sentence = None
    if listed and root.get("model_type", "SentenceTransformer") == "SentenceTransformer":
        sentence = _sentence(path, listed, root, found)
    if inventory is None:
        found.require()
    return sentence


def read_list(path: Path, inventory: Inventory) -> tuple[list[Listed], dict[str, Any]]:
    """The modules of modules.json and the entries of config_sentence_transformers.json; none
    of a directory without modules.json, whose other files of Sentence-Transformers are refused."""
    listed = modules_of(path)
    if not listed:
        stray = [path / name for name in (_ROOT, *TRANSFORMER_FILES) if (path / name).exists()]
        for file in stray:
            inventory.refuse(
                file,
                "",
                f"it belongs to modules.json, which is not there; restore that, or take "
                f"{file.name} out to compile the model without",
            )
        return [], {}
    entries = read_json(path / _LIST, list[dict[str, Any]])
    for place, entry in enumerate(entries):
        inventory.settings(path / _LIST, MODULES, values=entry, inside=str(place))
    root = inventory.settings(path / _ROOT, ROOT) if (path / _ROOT).exists() else {}
    return listed, root


def modules_of(path: Path) -> list[Listed]:
    """The modules that modules.json lists; none if there is no such file.

    UnsupportedError for modules that CANAO does not compile, InputError for a damaged list.
    """
    if not (path / _LIST).exists():
        return []
    entries = read_json(path / _LIST, list[dict[str, Any]], remedy="save the model again")
    if not entries:
        raise InputError(f"{path}/{_LIST}: lists no modules; save the model again")
    names = [entry.get("name", place) for place, entry in enumerate(entries)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}/{_LIST}: two modules are called {twice!r}; give each its own name"
        )
    listed = [_listed(path, entry) for entry in entries]
    kinds = [module.kind for module in listed]
    wrong = next((kind for kind in kinds if kind in _REFUSED), None)
    if wrong is not None:
        raise UnsupportedError(
            f"{path}/{_LIST}: module {wrong}: {_REFUSED[wrong]}; {_REMEDY}{_supported()}"
        )
    if kinds[0] != "Transformer" or "Transformer" in kinds[1:]:
        raise UnsupportedError(
            f"{path}/{_LIST}: modules {', '.join(kinds)} are not supported; {_REMEDY}{_supported()}"
        )
    return listed


def _supported() -> str:
    names = sorted(READERS.keys() - {"Pooling"})
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _listed(path: Path, entry: Mapping[str, Any]) -> Listed:
    kind, place = entry.get("type"), entry.get("path")
    if not isinstance(kind, str) or not isinstance(place, str):
        raise InputError(f"{path}/{_LIST}: a module has no type or no path; save the model again")
    found = _CLASS.fullmatch(kind)
    if found is None or found[1] not in (*READERS, *_REFUSED, "Transformer"):
        raise UnsupportedError(
            f"{path}/{_LIST}: module type '{kind}' is none of Sentence-Transformers, and CANAO "
            f"runs no code of a model directory; save the model with its modules"
        )
    inside = PurePosixPath(place)
    if inside.is_absolute() or ".." in inside.parts:
        raise InputError(f"{path}/{_LIST}: path '{inside}' leaves the directory; correct it")
    return Listed(found[1], path / inside)


def _sentence(
    path: Path, listed: Sequence[Listed], root: Mapping[str, Any], inventory: Inventory
) -> Sentence:
    folder = listed[0].folder
    texts = read_texts(path, folder, root, inventory, "feature-extraction")
    modules = [read_module(m.kind, m.folder, folder, inventory) for m in listed[1:]]
    kept = tuple(m for m in modules if m is not None)
    inventory.require()
    if not any(isinstance(m, Pooling) for m in kept):
        raise UnsupportedError(
            f"{path}/{_LIST}: no Pooling makes one vector of the tokens'; add one, or take "
            "modules.json and what belongs to it out to compile the model alone"
        )
    size = root.get("truncate_dim")
    if size is not None and size < 1:
        raise InputError(f"{path}/{_ROOT}: 'truncate_dim' is {size}; give at least 1")
    head = read_head(path, inventory)
    return Sentence(folder, kept, texts, size, head, _gives_types(folder))


def read_texts(
    path: Path, folder: Path, root: Mapping[str, Any], inventory: Inventory, task: str
) -> Texts:
    """How texts are read by the Transformer module in `folder`, which has the head of `task`."""
    found = [folder / name for name in TRANSFORMER_FILES if (folder / name).exists()]
    settings: dict[str, Any] = {}
    held: dict[str, Any] = {}
    while found and not held:  # an empty one is passed over
        file = found.pop(0)
        held = read_json(file)
        settings = inventory.settings(file, TRANSFORMER, values=held)
        _check_settings(file, settings, inventory, task)
    for file in found:
        inventory.file(file, INERT, "another file of its kind is read first")
    limit = _stated_limit(settings)
    lowercase = settings.get("do_lower_case") or False
    prompts = {name: text or "" for name, text in (root.get("prompts") or {}).items()}
    default = root.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise InputError(
            f"{path}/{_ROOT}: 'default_prompt_name' is '{default}', which is no prompt; correct it"
        )
    if limit is None:
        return Texts(tokenizer_limit(folder), True, lowercase, prompts, default)
    return Texts(limit, False, lowercase, prompts, default)


def _check_settings(
    file: Path, settings: Mapping[str, Any], inventory: Inventory, task: str
) -> None:
    """Judge what lies within the entries of a Transformer module's settings."""
    own = settings.get("transformer_task", "feature-extraction")
    if own != task:
        inventory.refuse(
            file,
            "transformer_task",
            f"'transformer_task' is {own}, and a model of its kind has "
            f"{task}; correct model_type in {_ROOT} or this",
        )
    for name in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args",
                 "config_kwargs"):  # fmt: skip
        inventory.settings(file, LOADING, values=settings.get(name) or {}, inside=name)
    _check_modalities(file, settings, inventory, task)
    for name, values in (settings.get("processing_kwargs") or {}).items():
        place = f"processing_kwargs.{name}"
        if name in ("text", "common"):
            inventory.settings(file, PROCESSING, values=values, inside=place)
        elif name in ("audio", "image", "video", "chat_template"):
            inventory.note(file, place, INERT, "only texts are read, and no conversations")
        else:
            inventory.refuse(file, place, f"'{place}' is not known to CANAO; take it out")


def _check_modalities(
    file: Path, settings: Mapping[str, Any], inventory: Inventory, task: str
) -> None:
    """Texts have to go to the model's forward, as they are, and its usual output be taken."""
    usual = ("last_hidden_state", TOKENS) if task == "feature-extraction" else ("logits", "scores")
    modalities = settings.get("modality_config")
    named = settings.get("module_output_name")
    if named is None and modalities is None:
        named = usual[1]
    if named != usual[1]:
        said = "missing beside 'modality_config'" if named is None else f"'{named}'"
        inventory.refuse(
            file,
            "module_output_name",
            f"'module_output_name' is {said}, and only '{usual[1]}' is understood; compile a "
            "model whose vectors are pooled by modules",
        )
    if modalities is None:
        return
    for name, how in modalities.items():
        place = f"modality_config.{name}"
        if name == "message":
            inventory.refuse(
                file,
                place,
                f"'{place}' wraps every text in a conversation (chat template), which is not "
                "supported; take it out to embed texts as they are",
            )
        elif name != "text":
            inventory.note(file, place, INERT, "only texts are read")
        else:
            taken = inventory.settings(file, MODALITY, values=how, inside=place)
            output = taken.get("method_output_name", usual[0])
            if output not in (usual[0], [usual[0]]):
                inventory.refuse(
                    file,
                    f"{place}.method_output_name",
                    f"'{place}.method_output_name' is {output}, and only '{usual[0]}' is "
                    "understood; compile a model whose last hidden state is pooled",
                )
    if "text" not in modalities:
        inventory.refuse(file, "modality_config", "the model takes no texts; compile one that does")


def _stated_limit(settings: Mapping[str, Any]) -> int | None:
    """The length that settings name; of several, the one that counts in Sentence-Transformers."""
    processing = settings.get("processing_kwargs") or {}
    loading = settings.get("processor_kwargs") or settings.get("tokenizer_args") or {}
    stated = (
        (processing.get("common") or {}).get("max_length"),
        (processing.get("text") or {}).get("max_length"),
        loading.get("model_max_length"),
        settings.get("max_seq_length"),
    )
    return next((n for n in stated if isinstance(n, int) and 0 < n < 2**31), None)


def _gives_types(folder: Path) -> bool:
    """Whether the tokenizer gives token type ids, by its settings or else by its class."""
    import transformers

    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    names = settings.get("model_input_names")
    if names is None:
        kind = getattr(transformers, str(settings.get("tokenizer_class")), None)
        names = getattr(kind, "model_input_names", ())
    return isinstance(names, (list, tuple)) and "token_type_ids" in names


def tokenizer_limit(folder: Path) -> int | None:
    """The length that texts are truncated to by the tokenizer; None if it sets no limit."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    limit = settings.get("model_max_length", settings.get("max_len"))
    return int(limit) if isinstance(limit, (int, float)) and 0 < limit < 2**31 else None
