"""From texts to token ids, with the artifact's tokenizer; long texts are truncated or windowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.errors import InputError
from canao.inference.tasks.windows import SHARED, cut_windows


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text or a pair of texts as token ids.

    windows   one or more encodings of the `tokenizers` library, several for a long context; or
              several of `Window` for a long text
    options   of the task, with their defaults
    cut       number of tokens before truncation, if the text was truncated; else 0
    whole     the encoding of the whole text, if `windows` are parts of it
    """

    text: str
    pair: str | None
    windows: tuple[Any, ...]
    options: dict[str, Any]
    cut: int = 0
    whole: Any = None


class Reader:
    """The tokenizer of an artifact, and what its manifest says of texts.

    limit               the most tokens of a sequence
    truncates           long texts are truncated without being asked
    windowed_context    the second text is a context, which is read in windows if it is long
    classifies_tokens   so that a long text is read in windows
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        manifest = artifact.manifest
        pooling = manifest.get("pooling") or {}
        self.limit = min(artifact.max_length, pooling.get("max_tokens") or artifact.max_length)
        # As Sentence-Transformers does.
        self.truncates = bool(pooling)
        self.lowercase, self.prompt = pooling.get("lowercase", False), pooling.get("prompt", "")
        self.windowed_context = manifest.get("task") == "question-answering"
        self.classifies_tokens = manifest.get("task") == "token-classification"
        self.inputs = {i["name"]: i["limit"] for i in manifest["inputs"]}
        self.tokenizer = _tokenizer(artifact)

    def encode(self, text: str, pair: str | None = None) -> tuple[Any, ...]:
        """The encoding of a text, truncated to the limit; or the windows over a long context."""
        whole = self.whole(text, pair)
        if len(whole.ids) <= self.limit:
            return (whole,)
        by_window = self.windowed_context and pair is not None
        over = len(whole.ids) - self.limit
        stride = min(SHARED, max(0, (len(_side(whole, 1)) - over) // 2)) if by_window else 0
        strategy = "only_second" if by_window else "longest_first"
        try:
            self.tokenizer.enable_truncation(self.limit, stride=stride, strategy=strategy)
            first = self.whole(text, pair)
        except InputError:
            what = "question" if by_window else "second text"
            raise InputError(
                f"the {what} alone fills the {self.limit} tokens of the model; shorten it"
            ) from None
        finally:
            self.tokenizer.no_truncation()
        # The library returns what was cut off as further windows; only a context needs them.
        return (first, *first.overflowing) if by_window else (first,)

    def whole(self, text: str, pair: str | None = None) -> Any:
        """The encoding of the prompt and the whole text; not truncated."""
        text = self.prompt + text
        if self.lowercase:
            text, pair = text.lower(), pair.lower() if pair is not None else None
        try:
            return self.tokenizer.encode(text, pair)
        except Exception as error:  # noqa: BLE001  the library raises bare Exception
            raise InputError(f"the text cannot be tokenized ({error})") from None

    def prepare(
        self, text: str, pair: str | None, truncate: bool | None, options: dict[str, Any]
    ) -> Prepared:
        """Tokenise a text or a pair; InputError if it is empty, or too long and not truncated."""
        _check_text("text", text)
        if pair is not None:
            _check_text("context" if self.windowed_context else "second text", pair)
        if self.classifies_tokens and not truncate:
            whole = self.whole(text)
            if len(whole.ids) > self.limit:
                return Prepared(text, None, cut_windows(whole, self.limit), options, whole=whole)
        windows = self.encode(text, pair)
        cut = 0
        if windows[0].overflowing and len(windows) == 1:
            cut = len(self.whole(text, pair).ids)
            if not (self.truncates if truncate is None else truncate):
                raise InputError(
                    f"the text has {cut} tokens, the model takes {self.limit}; "
                    "shorten it, or truncate it with truncate=True (--truncate)"
                )
        return Prepared(text, pair, windows, options, cut)

    def arrays(self, window: Any) -> list[np.ndarray]:
        """The model's inputs for a window, in the order of the manifest.

        Token type ids come from the tokenizer if the model has more than one type, else are 0.
        """
        given = {"input_ids": window.ids, "token_type_ids": window.type_ids}
        unknown = sorted(set(self.inputs) - set(given))
        if unknown:
            raise InputError(f"{self.artifact.path}: texts give no input '{unknown[0]}'")
        blank = [0] * len(window.ids)
        return [
            np.array(blank if name == "token_type_ids" and limit == 1 else given[name], np.int32)
            for name, limit in self.inputs.items()
        ]


def _side(window: Any, side: int) -> list[int]:
    """The places of the tokens of the first (0) or second (1) text in an encoding."""
    return [i for i, s in enumerate(window.sequence_ids) if s == side]


def _check_text(what: str, text: Any) -> None:
    if not isinstance(text, str):
        raise InputError(f"the {what} is {type(text).__name__}; give a string")
    if not text.strip():
        raise InputError(f"the {what} is empty; give at least one word")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"the {what} is not valid UTF-8; convert it first") from None


def _tokenizer(artifact: Artifact) -> Any:
    import tokenizers

    path = artifact.path / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{artifact.path}: no tokenizer.json; compile a model directory that has its tokenizer"
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        raise InputError(f"{path}: cannot be read ({error})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
