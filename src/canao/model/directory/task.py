"""The task of a model's head, its labels, what makes scores of its logits, and how a text is pooled
into one vector.

Transformers names the head in the model's class; labels and the kind of scores are in the
configuration. The pooling is read by model/sentence/sentence.py, the activation of a CrossEncoder
by cross_encoder.py there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from canao.model.directory.loaded_model import LoadedModel
from canao.model.sentence.sentence import Sentence

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
_SOFTMAX = ("token-classification", "question-answering", "fill-mask", "text-generation")


def describe_head(loaded: LoadedModel, outputs: Sequence[str] = ()) -> dict[str, Any]:
    """The manifest's entries about the head; `outputs`, the names of the model's outputs, decide
    where the name of its class does not.

    task            as the Hugging Face hub calls it; "sentence-embedding" for a directory of
                    Sentence-Transformers; "none" for a head that has no task for texts
    labels          in the order of the logits; empty if the head has none
    problem_type    single_label_classification, multi_label_classification, regression or ""
    activation      what makes scores of the first output: "softmax", "sigmoid", "identity" or
                    another name of inference/tasks/activations.py
    pooling         for a sentence embedding (see `Sentence.to_dict`), else None
    cross_encoder   how the texts of a CrossEncoder are read (see `Texts.to_dict`), else None
    """
    task = next((task for end, task in _HEADS if loaded.kind.endswith(end)), "none")
    if task == "none" and list(outputs[:1]) == ["last_hidden_state"]:
        task = "feature-extraction"
    found: dict[str, Any] = {"labels": [], "problem_type": "", "activation": "identity",
                             "pooling": None, "cross_encoder": None}  # fmt: skip
    vectors = task == "feature-extraction" or (task == "none" and loaded.module is not None)
    if vectors and loaded.sentence is not None:
        return _sentence(loaded.sentence, loaded.config, found)
    if task == "text-classification":
        return _classification(loaded, found)
    if task == "token-classification":
        found["labels"] = _labels(loaded.config)
    if task in _SOFTMAX:
        found["activation"] = "softmax"
    return {"task": task, **found}


def _sentence(sentence: Sentence, config: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Of one vector of a text, and of its classifier if it has one."""
    found["pooling"], head = sentence.to_dict(config), sentence.head
    if head is None:
        return {"task": "sentence-embedding", **found}
    several = head.activation == "sigmoid"
    problem = "multi_label_classification" if several else "single_label_classification"
    return {"task": "text-classification", **found, "labels": list(head.labels),
            "problem_type": problem, "activation": head.activation}  # fmt: skip


def _classification(loaded: LoadedModel, found: dict[str, Any]) -> dict[str, Any]:
    """Of a whole text: as CrossEncoder scores it where the model is one, else as Transformers'
    pipeline of text classification does."""
    labels = _labels(loaded.config)
    declared = getattr(loaded.config, "problem_type", None)
    scorer = loaded.scorer
    if scorer is not None:
        activation = scorer.scores(len(labels))
        found |= {"cross_encoder": scorer.texts.to_dict(loaded.config)}
    elif declared == "regression":
        activation = "identity"
    elif declared == "multi_label_classification" or len(labels) == 1:
        activation = "sigmoid"
    else:
        activation = "softmax"
    if declared == "regression" and activation == "identity":
        labels = labels if len(labels) > 1 else []
        return {"task": "text-regression", **found, "labels": labels, "problem_type": declared}
    # One label, or labels by themselves: none takes from another's score.
    apart = activation != "softmax"
    problem = "multi_label_classification" if apart else "single_label_classification"
    return {"task": "text-classification", **found, "labels": labels, "problem_type": problem,
            "activation": activation}  # fmt: skip


def _labels(config: Any) -> list[str]:
    return [str(config.id2label[i]) for i in sorted(config.id2label)]
