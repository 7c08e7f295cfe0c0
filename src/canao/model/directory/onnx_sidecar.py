"""What lies beside an .onnx file: its tokenizer, its labels, how its vectors are pooled.

An ONNX file contains none of these. Hugging Face's exporters put them into the file's own folder,
or leave them in the model's and the file in a folder `onnx` of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from canao.artifact.reading import first_repeated, shown
from canao.errors import UnsupportedError
from canao.model.directory.config import check_inverse
from canao.model.directory.loaded_model import LoadedModel
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, USED, Entry, Table
from canao.model.inventory.tables.config import CONFIG, IN_THE_GRAPH, ONNX_NAMES
from canao.model.sentence.cross_encoder import read_cross_encoder
from canao.model.sentence.sentence import Sentence, read_sentence, transformer_directory
from canao.model.tokenizing.files import describe_tokenizer

FOLDER = "onnx"
_CONFIG, _MODULES, _GENERATION = "config.json", "modules.json", "generation_config.json"
_NAMES = Table({name: CONFIG.entries[name] for name in ONNX_NAMES})
# A vocabulary, without what says how texts are taken apart and which tokens are put around them.
_VOCABULARIES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model",
                 "vocab.txt", "vocab.json", "merges.txt")  # fmt: skip
_SAVE_TOKENIZER = ("load it with AutoTokenizer and save it into that folder, as tokenizer.json")
# What the output that a task reads is called, by the end of the class's name: the first there is.
_OUTPUTS = (
    ("ForQuestionAnswering", ("start_logits",)),
    ("Classification", ("logits", "probabilities", "probs", "scores")),
    ("ForMaskedLM", ("logits", "prediction_logits")),
    ("LM", ("logits",)),
    ("LMHeadModel", ("logits",)),
    ("Model", ("last_hidden_state", "token_embeddings")),
)
# Files of the same model in other forms, of which the .onnx file is compiled.
_OTHER_FORMS = ("*.safetensors", "*.safetensors.index.json")
_MOST_LABELS = 1 << 16  # that are made up, as LABEL_0 and so on
_GRAPH_IS_GIVEN = "another form of the model: the .onnx file is given"


@dataclass(frozen=True, slots=True)
class LoadedOnnxModel(LoadedModel):
    """A model from an ONNX file: `module` is None, `kind` the class that config.json names.

    folder   where its generation_config.json lies, if it has one
    result   the output that its task reads
    beside   where its tokenizer, labels and pooling were read, or looked for, in words
    """

    kind: str = "onnx"
    folder: Path | None = None
    result: str = ""
    beside: Mapping[str, str] = field(default_factory=dict)


def folders(path: Path) -> tuple[Path, ...]:
    """Where what belongs to an .onnx file may lie: in its own folder, or, if that is called `onnx`,
    in the one around it."""
    own = path.parent
    if own.name == FOLDER:
        return own, own.parent
    return (own, own.resolve().parent) if own.resolve().name == FOLDER else (own,)


def root(path: Path) -> Path:
    """The directory of the model that an .onnx file belongs to."""
    return folders(path)[-1]


def read_sidecar(
    path: str | Path, columns: Mapping[str, int | None], inventory: Inventory | None = None
) -> LoadedOnnxModel:
    """What the files beside an .onnx file say of it. `columns` has how many each output has, by its
    name, in order; None where they are as many as tokens.

    A config.json with another number of labels belongs to another model and is refused, as are
    files that nobody can make sense of, and outputs of which none is known to be the task's.
    """
    path = Path(path)
    own = inventory or Inventory(root(path))
    config, kind, labels, result = _config(path, columns, own)
    tokenizer = tokenizer_folder(path, own)
    sentence, pooling = _sentence(path)
    _note_other_forms(path, own)
    if inventory is None:
        own.require()
    nowhere = "none; looked in " + " and ".join(map(str, folders(path)))
    beside = {"labels": labels or nowhere, "tokenizer": str(tokenizer or nowhere),
              "pooling": pooling or nowhere}  # fmt: skip
    for name, place in beside.items():
        own.note(path, name, INERT if place == nowhere else USED, f"from {place}"
                 if place != nowhere else place)  # fmt: skip
    places = folders(path)
    named = next((f for f in places if (f / _CONFIG).is_file()), path.parent)
    told = next((f for f in places if (f / _GENERATION).is_file()), places[-1])
    return LoadedOnnxModel(
        None, config, tokenizer, sentence, read_cross_encoder(named, own), kind, told, result,
        beside,
    )  # fmt: skip


def tokenizer_folder(path: str | Path, inventory: Inventory | None = None) -> Path | None:
    """The folder with the tokenizer of an .onnx file; None if there is none.

    A vocabulary that nothing says how to use is refused: texts would be taken apart in some way.
    """
    places = folders(Path(path))
    own = inventory or Inventory(places[-1])
    for folder in places:
        found = describe_tokenizer(folder)
        if found is None:
            continue
        if found["file"] != "tokenizer.json" and not (folder / _CONFIG).is_file():
            own.refuse(folder / found["file"], "", f"needs a {_CONFIG} beside it to be read; "
                       + _SAVE_TOKENIZER)  # fmt: skip
            break
        return folder
    else:
        for file in (folder / name for folder in places for name in _VOCABULARIES):
            if file.is_file():
                own.refuse(file, "", "is a vocabulary, and nothing says how texts are taken apart; "
                           + _SAVE_TOKENIZER)  # fmt: skip
    if inventory is None:
        own.require()
    return None


def _config(
    path: Path, columns: Mapping[str, int | None], inventory: Inventory
) -> tuple[Any, str, str, str]:
    """What config.json says of an .onnx file, the class that it names, where the labels are from
    ('' if from nowhere), and the task's output. Of its entries only names are read: the graph has
    all the rest."""
    first = next(iter(columns), "")
    file = next((f / _CONFIG for f in folders(path) if (f / _CONFIG).is_file()), None)
    nameless = {"model_type": "onnx", "id2label": {}, "num_labels": 0, "problem_type": None}
    if file is None:
        return SimpleNamespace(**nameless), "onnx", "", first
    read = inventory.settings(file, _NAMES, _in_the_graph)
    if any(f.file == inventory.relative(file) for f in inventory.refusals):
        return SimpleNamespace(**nameless), "onnx", "", first
    kind = str((read.get("architectures") or ["onnx"])[0])
    settings: dict[str, Any] = {name: read.get(name) for name in ONNX_NAMES}
    settings["model_type"] = read.get("model_type") or "onnx"
    count = _label_count(read)
    result = _task_output(kind, columns, count)
    if result is None:
        inventory.refuse(path, "outputs", (
            f"has the outputs {', '.join(columns)}, and a {kind} reads {_wanted(kind)[0]}; export "
            "the model with that name for it"
        ))  # fmt: skip
    wrong, width = _wrong_labels(read, count), columns.get(result or first)
    # Only a classifier is checked: Transformers writes two labels into any model's configuration.
    if wrong is None and kind.endswith("Classification") and width not in (None, count):
        wrong = (
            f"names {count} labels, and output '{result or first}' of {path.name} has {width} "
            "columns; give the config.json that belongs to it, with a name in id2label for each"
        )
    if wrong is not None:
        inventory.refuse(file, "id2label", wrong)
        return SimpleNamespace(**{**settings, **nameless}), "onnx", "", first
    names = read.get("id2label") or {i: f"LABEL_{i}" for i in range(count)}
    labels = {int(i): str(name) for i, name in names.items()}
    check_inverse(file, [labels[i] for i in range(count)], read.get("label2id"), inventory)
    found = SimpleNamespace(**{**settings, "id2label": labels, "num_labels": count})
    return found, kind, str(file), result or first


def _wanted(kind: str) -> Sequence[str]:
    return next((names for end, names in _OUTPUTS if kind.endswith(end)), ())


def _task_output(kind: str, columns: Mapping[str, int | None], labels: int) -> str | None:
    """The output that the task of a class reads: the only one, or the one of its name, or the only
    one with a column for each label. None if it cannot be told."""
    wanted = _wanted(kind)
    named = next((name for name in wanted if name in columns), None)
    if named is not None or not wanted:
        return named or next(iter(columns), "")
    if kind.endswith("ForQuestionAnswering"):
        return None
    if len(columns) == 1 or kind.endswith("Model"):
        return next(iter(columns))
    fitting = [name for name, count in columns.items() if count == labels]
    alone = kind.endswith("Classification") and len(fitting) == 1
    return fitting[0] if alone else None


def _in_the_graph(name: str, value: Any) -> Entry | None:
    return IN_THE_GRAPH


def _label_count(read: Mapping[str, Any]) -> int:
    """How many labels config.json names; two if it says nothing, as Transformers has it."""
    if read.get("id2label"):
        return len(read["id2label"])
    stated = (read.get("num_labels"), read.get("_num_labels"))
    return next((int(n) for n in stated if n is not None), 2)


def _wrong_labels(read: Mapping[str, Any], count: int) -> str | None:
    """What is wrong with labels that can be read in more than one way."""
    names = read.get("id2label") or {}
    order = [str(i) for i in range(len(names))]
    odd = next((key for key in names if key not in set(order)), None)
    if odd is not None:
        return (f"id2label has {len(names)} labels and a key {shown(odd)}; number them 0 to "
                f"{len(names) - 1}, in the order of the columns")  # fmt: skip
    twice = first_repeated(names.values())
    if twice is not None:
        return f"id2label gives the name {shown(twice)} to two labels; give each its own"
    for entry in ("num_labels", "_num_labels"):
        if names and read.get(entry) not in (None, count):
            return (f"{entry} is {read[entry]} and id2label has {count} names; correct the one "
                    "that does not fit the graph")  # fmt: skip
    if not 0 <= count <= _MOST_LABELS:
        return f"num_labels is {count}; name the labels in id2label"
    return None


def _sentence(path: Path) -> tuple[Sentence | None, str]:
    """How token vectors are pooled into one, and the file that says so; UnsupportedError for
    modules with weights."""
    for folder in _model_directories(path):
        found = read_sentence(folder)
        if found is None:
            continue
        if not found.needs_no_weights:
            raise UnsupportedError(
                f"{folder}/{_MODULES}: beside an .onnx file only Pooling and Normalize are "
                "supported; compile the directory that it was exported from"
            )
        return found, str(folder / _MODULES)
    return None, ""


def _model_directories(path: Path) -> Sequence[Path]:
    """The folders of an .onnx file, and those whose modules.json says that the model is in one."""
    found = []
    for folder in folders(path):
        around = folder.resolve().parent
        if (folder / _MODULES).is_file():
            found.append(folder)
        elif (around / _MODULES).is_file() and (
            transformer_directory(around) == around / folder.resolve().name
        ):
            found.append(around)
    return found


def _note_other_forms(path: Path, inventory: Inventory) -> None:
    for folder in folders(path):
        for file in (f for pattern in _OTHER_FORMS for f in sorted(folder.glob(pattern))):
            inventory.file(file, INERT, _GRAPH_IS_GIVEN)
    inventory.file(path, USED, "the model")
