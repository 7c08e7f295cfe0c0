"""The task of a model's head, its labels, and how a text is pooled into one vector.

Transformers names the head in the model's class; labels and the kind of scores are in the
configuration. Pooling is read by sentence.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from canao.model.loaded_model import LoadedModel

# The ends of class names, of which the first match counts. Other classes have no task for texts.
_HEADS = (
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForMaskedLM", "fill-mask"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("Model", "feature-extraction"),
)


def describe_head(loaded: LoadedModel, outputs: Sequence[str] = ()) -> dict[str, Any]:
    """The manifest's entries about the head; `outputs`, the names of the model's outputs, decide
    where the name of its class does not.

    task           as the Hugging Face hub calls it; "sentence-embedding" for a directory of
                   Sentence-Transformers; "none" for a head that has no task for texts
    labels         in the order of the logits; empty if the head has none
    problem_type   single_label_classification, multi_label_classification, regression or ""
    pooling        for a sentence embedding (see `Sentence.to_dict`), else None
    """
    task = next((task for end, task in _HEADS if loaded.kind.endswith(end)), "none")
    if task == "none" and list(outputs[:1]) == ["last_hidden_state"]:
        task = "feature-extraction"
    sentence = loaded.sentence if task == "feature-extraction" else None
    labels = _labels(loaded.config) if task.endswith("-classification") else []
    problem = _problem_type(loaded.config) if task == "text-classification" else ""
    if problem == "regression":
        task = "text-regression"
        labels = labels if len(labels) > 1 else []
    if sentence is not None:
        task = "sentence-embedding"
    pooling = sentence.to_dict() if sentence else None
    return {"task": task, "labels": labels, "problem_type": problem, "pooling": pooling}


def stop_tokens(config: Any) -> list[int]:
    """The tokens that end a generated text, if the configuration names any."""
    ends = getattr(config, "eos_token_id", None)
    return [int(e) for e in (ends if isinstance(ends, (list, tuple)) else [ends]) if e is not None]


def _labels(config: Any) -> list[str]:
    return [str(config.id2label[i]) for i in sorted(config.id2label)]


def _problem_type(config: Any) -> str:
    """As configured; otherwise, as in Transformers, a regression if there is one output."""
    declared = getattr(config, "problem_type", None)
    return declared or ("regression" if config.num_labels == 1 else "single_label_classification")
