"""From texts to token ids, with the artifact's tokenizer; long texts are truncated or windowed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.artifact.reading import read_bytes
from canao.artifact.text_settings import PROMPT_MASK, TextSettings
from canao.errors import InputError
from canao.inference.tasks.head import require_head
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.prompts import chosen_prompt, in_lower_case, reading, special_tokens
from canao.inference.tasks.table import TASKS
from canao.inference.tasks.task import CONTEXT
from canao.inference.tasks.windows import SHARED, cut_windows


class Reader:
    """The tokenizer of an artifact, and what its manifest says of texts.

    limit               the most tokens of a sequence
    shortened           how many tokens are left of a text that is truncated; not above `limit`
    truncates           long texts are truncated without being asked
    windowed_context    the second text is a context, which is read in windows if it is long
    windowed_text       a long text is read in windows
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        manifest = artifact.manifest
        require_head(manifest)
        self.settings = TextSettings.of(manifest, f"{artifact.path}/manifest.json")
        self.texts = reading(manifest)
        own = self.texts.get("max_tokens")
        self.limit = min(artifact.max_length, own or artifact.max_length)
        # Sentence-Transformers has a maximum of its own, which is in `texts`.
        usual = self.limit if self.texts else self.settings.max_tokens or self.limit
        self.shortened = min(self.limit, usual)
        # Where Sentence-Transformers truncates, and nowhere else.
        self.truncates = own is not None and own <= artifact.max_length
        task = TASKS.get(manifest.get("task", "none"))
        self.windowed_context = task is not None and task.pairs == CONTEXT
        self.windowed_text = task is not None and task.windows
        self.inputs = {i["name"]: i["limit"] for i in manifest["inputs"]}
        library = _tokenizer(artifact, self.settings)
        if self.texts.get("lowercase"):
            in_lower_case(library)
        self.tokenizer = TextTokenizer(library, self.settings)

    def encode(
        self, text: str, pair: str | None = None, prompt: str | None = None
    ) -> tuple[Any, ...]:
        """The encoding of a text, truncated as Transformers does; or the windows over a long
        context."""
        by_window = self.windowed_context and pair is not None
        whole = self.whole(text, pair, prompt)
        if len(whole.ids) <= (self.limit if by_window else self.shortened):
            return (whole,)
        if by_window:
            return self._windows(whole, text, pair, prompt)
        # Of a text one end is cut off; of a pair, the longer text's.
        return (self._cut(text, pair, prompt, self.shortened, "second text"),)

    def _windows(
        self, whole: Any, text: str, pair: str | None, prompt: str | None
    ) -> tuple[Any, ...]:
        over = len(whole.ids) - self.limit
        stride = min(SHARED, max(0, (len(_side(whole, 1)) - over) // 2))
        cut = {"stride": stride, "strategy": "only_second"}
        first = self._cut(text, pair, prompt, self.limit, "question", **cut)
        # The library returns what was cut off as further windows.
        return (first, *first.overflowing)

    def _cut(
        self, text: str, pair: str | None, prompt: str | None, limit: int, what: str, **how: Any
    ) -> Any:
        """The encoding of at most `limit` tokens, with the rest as its overflow."""
        try:
            self.tokenizer.library.enable_truncation(
                limit, direction=self.settings.truncation_side, **how
            )
            found = self.whole(text, pair, prompt)
        except (InputError, ValueError):
            found = None
        finally:
            self.tokenizer.library.no_truncation()
        if found is None or len(found.ids) > limit:
            raise InputError(f"the {what} alone fills the {limit} tokens of the model; shorten it")
        return found

    def whole(self, text: str, pair: str | None = None, prompt: str | None = None) -> Any:
        """The encoding of the prompt (or else the default one) and the whole text."""
        text = (chosen_prompt(self.texts, None) if prompt is None else prompt) + text
        try:
            return self.tokenizer.library.encode(text, pair)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  also a panic, which is no Exception
            raise InputError(f"the text cannot be tokenized ({error})") from None

    def prepare(
        self, text: str, pair: str | None, truncate: bool | None, options: dict[str, Any]
    ) -> Prepared:
        """Tokenise a text or a pair; InputError if it is empty, or too long and not truncated."""
        _check_text("text", text)
        if pair is not None:
            _check_text("context" if self.windowed_context else "second text", pair)
        if self.windowed_text and not truncate:
            whole = self.whole(text)
            if len(whole.ids) > self.limit:
                return Prepared(text, None, cut_windows(whole, self.limit), options, whole=whole)
        truncates = self.truncates if truncate is None else truncate
        by_window = self.windowed_context and pair is not None
        prompt = chosen_prompt(self.texts, options.get("prompt_name"))
        whole = self.whole(text, pair, prompt)
        count = len(whole.ids)
        if by_window or (truncates and count > self.shortened):
            windows = self.encode(text, pair, prompt)
            cut = 0 if by_window else count
        elif count > self.limit:
            raise InputError(
                f"the text has {count} tokens, the model takes {self.limit}; "
                "shorten it, or truncate it with truncate=True (--truncate)"
            )
        else:
            windows, cut = (whole,), 0
        return Prepared(text, pair, windows, options, cut, skip=self._skipped(prompt, windows[0]))

    def _skipped(self, prompt: str, window: Any) -> int:
        """How many first tokens are the prompt's and not pooled: as many as the prompt has by
        itself, without a special token at its end."""
        if not prompt or self.texts.get("include_prompt", True):
            return 0
        ids = self.encode(prompt, prompt="")[0].ids
        count = len(ids) - (ids[-1] in special_tokens(self.tokenizer.library))
        if count >= len(window.ids):
            raise InputError(
                f"the prompt fills all {len(window.ids)} tokens of the text; name another, or "
                'none with prompt_name="" (--prompt-name "")'
            )
        return count

    def arrays(self, window: Any, skip: int = 0) -> list[np.ndarray]:
        """The model's inputs for a window, in the order of the manifest.

        Token type ids come from the tokenizer if it gives them to its model and the model has more
        than one type, else are 0. The first `skip` tokens are those of a prompt.
        """
        mask = [1] * skip + [0] * (len(window.ids) - skip)
        given = {"input_ids": window.ids, "token_type_ids": window.type_ids, PROMPT_MASK: mask}
        unknown = sorted(set(self.inputs) - set(given))
        if unknown:
            raise InputError(f"{self.artifact.path}: texts give no input '{unknown[0]}'")
        blank = [0] * len(window.ids)
        blanked = {n for n, limit in self.inputs.items() if n == "token_type_ids"
                   and (limit == 1 or not self.settings.type_ids)}  # fmt: skip
        return [
            np.array(blank if name in blanked else given[name], np.int32) for name in self.inputs
        ]


class TextTokenizer:
    """A tokenizer of the `tokenizers` library (`library`), which decodes as Transformers does."""

    def __init__(self, library: Any, settings: TextSettings) -> None:
        self.library, self._settings = library, settings

    def token_to_id(self, token: str) -> int | None:
        """The id of a token; None if it is not in the vocabulary."""
        found: int | None = self.library.token_to_id(token)
        return found

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        text = self.library.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return self._settings.cleaned(text)


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


def _tokenizer(artifact: Artifact, settings: TextSettings) -> Any:
    """The artifact's tokenizer; InputError if it has none, or another than it was compiled with."""
    import tokenizers

    path = artifact.path / "tokenizer.json"
    expected = artifact.manifest["files"].get(path.name)
    if expected is None:
        raise InputError(
            f"{artifact.path}: no tokenizer.json; compile a model directory that has its tokenizer"
        )
    content = read_bytes(path, remedy="compile the model again")
    # Compiling checked what it does to texts; another file may do anything.
    if hashlib.sha256(content).hexdigest() != expected:
        raise InputError(f"{path}: content differs from the manifest; compile again")
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        raise InputError(f"{path}: cannot be read ({error}); compile again") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = settings.split_special_tokens
    return tokenizer
