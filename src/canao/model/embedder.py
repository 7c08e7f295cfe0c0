"""A text's vector as students learn it: an encoder, a pooling of its tokens' vectors, and a map
into the teacher's dimensions, to and from the directories of Sentence-Transformers.

The map is what a head is to a classifier: its outputs are the logits of training.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from canao.artifact.files import staged_directory
from canao.errors import InputError, UnsupportedError
from canao.model.directory.config import read_config
from canao.model.directory.loaded_model import load_directory
from canao.model.families.table import family_of
from canao.model.heads import Head
from canao.model.inventory.inventory import Inventory
from canao.model.sentence.embedding import with_embedding
from canao.model.sentence.modules import SENTENCE, Dense, Module, Normalize, Pooling
from canao.model.sentence.sentence import Sentence, read_sentence

_MODES = ("mean", "cls")
_PACKAGE = "sentence_transformers.models"
_REMEDY = "give a teacher of Sentence-Transformers with Transformer, Pooling and Normalize"


@dataclass(frozen=True, slots=True)
class Vectors(Head):
    """A head that gives a text's vector.

    mode        of the pooling: mean or cls
    width       of the vectors
    normalized  whether they are scaled to length 1 afterwards
    longest     tokens that texts are truncated to
    """

    mode: str = "mean"
    width: int = 0
    normalized: bool = False
    longest: int = 512

    @property
    def averages(self) -> bool:
        return self.mode == "mean"

    def build(self, config: PreTrainedConfig) -> Any:
        import transformers

        bare = copy.deepcopy(config)
        bare.num_labels = 2  # as where nothing is said: the encoder has no labels to save
        without = {"add_pooling_layer": False} if family_of(config).pools else {}
        return Embedder(transformers.AutoModel.from_config(bare, **without), self)


class Embedder(nn.Module):
    """An encoder (`base_model`, as classifiers call theirs), with the map as `classifier`."""

    def __init__(self, encoder: Any, head: Vectors) -> None:
        super().__init__()
        self.base_model, self.head = encoder, head
        # What of a configuration is read in training: the number of outputs is the vectors' width.
        self.config = copy.deepcopy(encoder.config)
        self.config.num_labels = head.width
        self.classifier = nn.Linear(encoder.config.hidden_size, head.width)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:  # fmt: skip
        """Vectors before they are scaled as `logits`, [batch, width]; without a mask, of sequences
        without padding."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.base_model(
            input_ids=input_ids, attention_mask=attention_mask, **types
        ).last_hidden_state
        vector = self.classifier(self._pooled(states, attention_mask))
        return SequenceClassifierOutput(logits=vector)

    def _pooled(self, states: Tensor, mask: Tensor | None) -> Tensor:
        if self.head.mode == "cls":
            return states[:, 0]
        if mask is None:
            return states.mean(1)
        real = mask[..., None].to(states.dtype)
        return (states * real).sum(1) / real.sum(1)

    @property
    def maps(self) -> bool:
        """Whether the map changes anything, as it does unless it is the identity."""
        weight, bias = self.classifier.weight, self.classifier.bias
        same = weight.shape[0] == weight.shape[1] and torch.equal(
            weight.detach(), torch.eye(len(weight), device=weight.device)
        )
        return not same or bool(bias.detach().any())

    def compiled(self) -> nn.Module:
        """The model as it is compiled of its directory."""
        found = with_embedding(
            self.base_model, Sentence(Path(), tuple(self._modules_after())),
            self.config.hidden_size,
        )  # fmt: skip
        found.config = self.base_model.config
        return found

    def _modules_after(self) -> list[Module]:
        parts: list[Module] = [Pooling((self.head.mode,))]
        if self.maps:
            weight, bias = (p.detach().cpu().float() for p in self.classifier.parameters())
            parts.append(Dense(weight, bias, "Identity"))
        return [*parts, Normalize()] if self.head.normalized else parts


def head_of_directory(path: Path, inventory: Inventory | None = None) -> Vectors:
    """How the model of a Sentence-Transformers directory makes vectors.

    UnsupportedError for a directory of anything else, and for modules that students cannot have.
    """
    inventory = inventory or Inventory(path)
    sentence = read_sentence(path, inventory)
    if sentence is None:
        raise UnsupportedError(
            f"{path}: no modules.json, so that nobody knows how it makes one vector of a text; "
            f"{_REMEDY}"
        )
    pooling, *rest = sentence.modules
    dense = [m for m in rest if isinstance(m, Dense)]
    # In this order alone: a map of scaled vectors gives others than scaled vectors of a map.
    plain = all(map(_plain, dense)) and rest in (dense[:1], [*dense[:1], Normalize()])
    if not (isinstance(pooling, Pooling) and len(pooling.modes) == 1) or not plain or (
        pooling.modes[0] not in _MODES or sentence.head is not None or sentence.truncate_dim
    ):
        raise UnsupportedError(
            f"{path}/modules.json: students learn vectors of the mean or of the first token, with "
            f"one plain Dense at most; {_REMEDY}"
        )
    if sentence.texts.lowercase or any(sentence.texts.prompts.values()):
        raise UnsupportedError(
            f"{path}: puts texts in lower case, or a prompt before them, which students would not "
            f"learn; {_REMEDY}, and neither do_lower_case nor prompts"
        )
    config, _ = read_config(sentence.transformer, inventory, bare=True)
    if dense and dense[0].weight.shape[1] != config.hidden_size:
        raise InputError(
            f"{path}: its Dense reads {dense[0].weight.shape[1]} numbers, and the model gives "
            f"{config.hidden_size}; one of them belongs to another model"
        )
    width = len(dense[0].weight) if dense else int(config.hidden_size)
    longest = sentence.texts.to_dict()["max_tokens"] or family_of(config).tokens(config)
    return Vectors(
        "SentenceEmbedding", None, pooling.modes[0], width,
        any(isinstance(m, Normalize) for m in rest), longest,
    )  # fmt: skip


def _plain(module: Module) -> bool:
    return isinstance(module, Dense) and module.activation == "Identity" and (
        module.residual is None and module.source == module.target == SENTENCE
    )


def load_embedder(path: Path, inventory: Inventory | None = None) -> Embedder:
    """The model of a Sentence-Transformers directory, in evaluation mode and float32."""
    head = head_of_directory(path, inventory)
    loaded = load_directory(path, inventory)
    assert loaded.sentence is not None, "which its head was read of"
    encoder = loaded.module
    if family_of(encoder.config).pools:
        encoder.pooler = None
    model = Embedder(encoder, head)
    dense = next((m for m in loaded.sentence.modules if isinstance(m, Dense)), None)
    with torch.no_grad():
        nn.init.zeros_(model.classifier.bias)
        if dense is None:
            nn.init.eye_(model.classifier.weight)
        else:
            model.classifier.weight.copy_(dense.weight)
            if dense.bias is not None:
                model.classifier.bias.copy_(dense.bias)
    return model.float().eval()


def save_embedder(model: Embedder, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a directory of Sentence-Transformers: all of it or nothing."""
    head, config = model.head, model.config
    kinds = ["Transformer", "Pooling", *["Dense"] * model.maps, *["Normalize"] * head.normalized]
    folders = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    with staged_directory(directory) as folder:
        model.base_model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        listed = [
            {"idx": i, "name": str(i), "path": place, "type": f"{_PACKAGE}.{kind}"}
            for i, (kind, place) in enumerate(zip(kinds, folders, strict=True))
        ]
        for place in folders[1:]:
            (folder / place).mkdir()
        _write(folder / "modules.json", listed)
        _write(folder / "sentence_bert_config.json",
               {"max_seq_length": head.longest, "do_lower_case": False})  # fmt: skip
        # As versions 2 to 5 write it, and all read it.
        _write(folder / "1_Pooling" / "config.json", {
            "word_embedding_dimension": config.hidden_size,
            "pooling_mode_cls_token": head.mode == "cls",
            "pooling_mode_mean_tokens": head.mode == "mean",
        })  # fmt: skip
        if model.maps:
            _save_dense(model.classifier, folder / "2_Dense")


def _save_dense(linear: nn.Linear, folder: Path) -> None:
    _write(folder / "config.json", {
        "in_features": linear.in_features, "out_features": linear.out_features, "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    })  # fmt: skip
    held = {f"linear.{n}": p.detach().cpu().contiguous() for n, p in linear.named_parameters()}
    safetensors.torch.save_file(held, folder / "model.safetensors")


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
