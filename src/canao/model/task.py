"""What a model's head is for: the task, its labels, and how texts become vectors.

Transformers names the head in the class or in `architectures`; the labels and the kind of scores
are in the configuration. Sentence-Transformers writes modules.json, which says how the vectors of
a text's tokens become one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from canao.errors import InputError, UnsupportedError
from canao.model.source import Source

# Ends of class names, the first that fits. Names that nothing fits have no task for texts.
_HEADS = (
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForMaskedLM", "fill-mask"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("Model", "feature-extraction"),
)
_POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_OLDER_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def describe_head(source: Source, outputs: Sequence[str] = ()) -> dict[str, Any]:
    """What the manifest says of the head; `outputs` tell of models whose class says nothing.

    task           as the Hugging Face hub calls it; "sentence-embedding" for a directory of
                   Sentence-Transformers; "none" for a head that has no task for texts
    labels         in the order of the logits; empty where the head has none
    problem_type   single_label_classification, multi_label_classification, regression or ""
    pooling        of a sentence embedding (see `read_pooling`), else None
    """
    task = next((task for end, task in _HEADS if source.kind.endswith(end)), "none")
    if task == "none" and list(outputs[:1]) == ["last_hidden_state"]:
        task = "feature-extraction"
    pooling = read_pooling(source.path) if task == "feature-extraction" else None
    labels = _labels(source.config) if task.endswith("-classification") else []
    problem = _problem_type(source.config) if task == "text-classification" else ""
    if problem == "regression":
        task = "text-regression"
        labels = labels if len(labels) > 1 else []
    if pooling is not None:
        task = "sentence-embedding"
    return {"task": task, "labels": labels, "problem_type": problem, "pooling": pooling}


def stop_tokens(config: Any) -> list[int]:
    """The tokens that end a text, where the model's configuration names them."""
    ends = getattr(config, "eos_token_id", None)
    return [int(e) for e in (ends if isinstance(ends, (list, tuple)) else [ends]) if e is not None]


def _labels(config: Any) -> list[str]:
    return [str(config.id2label[i]) for i in sorted(config.id2label)]


def _problem_type(config: Any) -> str:
    """Transformers trains one output as a regression, and several as classes, if nothing is set."""
    declared = getattr(config, "problem_type", None)
    return declared or ("regression" if config.num_labels == 1 else "single_label_classification")


def read_pooling(path: Path | None) -> dict[str, Any] | None:
    """How Sentence-Transformers makes one vector of a text; None for any other directory.

    modes        one or more of cls, max, mean, ...; several are put one after another
    normalize    whether the vector is scaled to length 1
    max_tokens   texts are cut there; None: at the model's maximum
    lowercase    whether texts are put in lower case before anything else
    prompt       what is put before every text
    """
    if path is None or not (path / "modules.json").is_file():
        return None
    modules = _read(path / "modules.json", list)
    kinds = [str(m.get("type", "")).rpartition(".")[2] for m in modules if isinstance(m, dict)]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise UnsupportedError(
            f"{path}/modules.json: modules {', '.join(kinds) or 'none'} are not supported; "
            "Transformer, Pooling and Normalize are, in this order"
        )
    pooling = _read(path / str(modules[1].get("path", "1_Pooling")) / "config.json", dict)
    settings: Mapping[str, Any] = {}
    if (path / "sentence_bert_config.json").is_file():
        settings = _read(path / "sentence_bert_config.json", dict)
    limit = settings.get("max_seq_length")
    return {
        "modes": _modes(path, pooling),
        "normalize": "Normalize" in kinds,
        "max_tokens": int(limit) if limit else None,
        "lowercase": bool(settings.get("do_lower_case", False)),
        "prompt": _prompt(path, pooling),
    }


def _prompt(path: Path, pooling: Mapping[str, Any]) -> str:
    """The prompt that Sentence-Transformers puts before a text when none is named."""
    if not (path / "config_sentence_transformers.json").is_file():
        return ""
    settings = _read(path / "config_sentence_transformers.json", dict)
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or ""
    if prompt and not pooling.get("include_prompt", True):
        raise UnsupportedError(
            f"{path}: pooling without the tokens of its prompt is not supported; "
            "set include_prompt or remove default_prompt_name"
        )
    return prompt


def _modes(path: Path, pooling: Mapping[str, Any]) -> list[str]:
    declared = pooling.get("pooling_mode")
    if declared is None:
        declared = [mode for key, mode in _OLDER_POOLINGS.items() if pooling.get(key)]
    modes = [declared] if isinstance(declared, str) else list(declared)
    if not modes or not set(modes) <= set(_POOLINGS):
        raise UnsupportedError(
            f"{path}: pooling {modes} is not supported; {', '.join(_POOLINGS)} are"
        )
    return modes


def _read(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, kind):
        raise InputError(f"{path}: holds no JSON {'list' if kind is list else 'object'}")
    return value
