"""What CrossEncoder of Sentence-Transformers adds to a classifier of pairs: how its scores are made
of logits, and how its texts are read.

Versions before 6 write the activation into config.json; version 6 writes modules.json and
config_sentence_transformers.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.reading import read_json
from canao.errors import UnsupportedError
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.tables.sentence import CROSS_ENCODER
from canao.model.sentence.modules import TORCH_PACKAGES
from canao.model.sentence.sentence import Texts, modules_of, read_list, read_texts, tokenizer_limit

# Classes of torch.nn, made without arguments, by what a manifest calls them.
ACTIVATIONS = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Tanh": "tanh",
    "ReLU": "relu",
    "Softplus": "softplus",
    "LogSigmoid": "log_sigmoid",
}
# What versions before 4 called `sentence_transformers.activation_fn`.
OLDER = "sbert_ce_default_activation_function"


@dataclass(frozen=True, slots=True)
class CrossEncoder:
    """`activation` as a manifest has it, or None: a sigmoid for one label, else the logits."""

    activation: str | None
    texts: Texts

    def scores(self, labels: int) -> str:
        """What makes scores of the logits of so many labels."""
        return self.activation or ("sigmoid" if labels == 1 else "identity")


def read_cross_encoder(path: Path, inventory: Inventory | None = None) -> CrossEncoder | None:
    """What the directory of a CrossEncoder says of its scores; None for any other directory.

    What is refused is noted in the inventory, or raised without one.
    """
    found = inventory or Inventory(path)
    listed = modules_of(path)
    read = _of_modules(path, found) if listed else _of_config(path, found)
    if inventory is None:
        found.require()
    return read


def _of_modules(path: Path, inventory: Inventory) -> CrossEncoder | None:
    """As version 6 saves it."""
    listed, root = read_list(path, inventory)
    if root.get("model_type") != "CrossEncoder":
        return None
    if len(listed) > 1:
        kinds = ", ".join(module.kind for module in listed)
        raise UnsupportedError(
            f"{path}/modules.json: a CrossEncoder of modules {kinds} is not supported; one whose "
            "only module is a Transformer is"
        )
    folder = listed[0].folder
    texts = read_texts(path, folder, root, inventory, "sequence-classification")
    named = root.get("activation_fn")
    where = (path / "config_sentence_transformers.json", "activation_fn")
    if named is not None:
        return CrossEncoder(_activation(*where, named, inventory), texts)
    return CrossEncoder(_in_config(folder, inventory), texts)


def _of_config(path: Path, inventory: Inventory) -> CrossEncoder | None:
    """As versions before 6 save it: only config.json tells."""
    if not (path / "config.json").is_file():
        return None
    raw = read_json(path / "config.json")
    if "sentence_transformers" not in raw and raw.get(OLDER) is None:
        return None
    return CrossEncoder(_in_config(path, inventory), Texts(tokenizer_limit(path)))


def _in_config(folder: Path, inventory: Inventory) -> str | None:
    """The activation that config.json names, if it names one."""
    path = folder / "config.json"
    raw = read_json(path) if path.is_file() else {}
    own = raw.get("sentence_transformers")
    if isinstance(own, Mapping):
        settings = inventory.settings(
            path, CROSS_ENCODER, values=own, inside="sentence_transformers"
        )
        if "activation_fn" in settings:
            place = "sentence_transformers.activation_fn"
            return _activation(path, place, settings["activation_fn"], inventory)
    return _activation(path, OLDER, raw.get(OLDER), inventory)


def _activation(path: Path, place: str, named: Any, inventory: Inventory) -> str | None:
    if named is None:
        return None
    package, _, name = str(named).rpartition(".")
    if package not in TORCH_PACKAGES or name not in ACTIVATIONS:
        inventory.refuse(
            path,
            place,
            f"'{place}' is '{named}', which is not supported; {', '.join(ACTIVATIONS)} of "
            "torch.nn are",
        )
    return ACTIVATIONS.get(name)


def check_scorer(path: Path, scorer: CrossEncoder | None, kind: str) -> None:
    """UnsupportedError where a CrossEncoder's weights are of a class without labels."""
    if scorer is not None and not kind.endswith("ForSequenceClassification"):
        raise UnsupportedError(
            f"{path}/config.json: a CrossEncoder of {kind}, whose weights have no head for labels, "
            "is not supported; train and save it as a ...ForSequenceClassification"
        )
