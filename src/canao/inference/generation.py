"""Text generation: what decides how a sequence goes on, which token comes next, and when it ends.

Settings have the names, meanings and defaults that they have in Transformers' generate. An option
counts before what the model's files say, and those before the defaults. The model is a function
here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from canao.artifact.reading import fits
from canao.errors import InputError
from canao.inference.logits import Step, narrowing, softmax, steps
from canao.model.inventory.table import USED
from canao.model.inventory.tables.generation import GENERATION

# What an incomplete character of several bytes decodes to.
_INCOMPLETE = "\ufffd"
# Where neither options nor files limit a sequence. Transformers' default is 20.
MAX_NEW_TOKENS = 64
# All settings, and what they are where nothing is said.
SETTINGS = tuple(name for name, entry in GENERATION.entries.items()
                 if entry.status == USED and name != "eos_token_id")  # fmt: skip
_DEFAULTS: Mapping[str, Any] = dict.fromkeys(SETTINGS) | {
    "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0,
}  # fmt: skip
# Two names of one matter: an option for one replaces what a file says of the other.
_SAME = {"max_new_tokens": "max_length", "max_length": "max_new_tokens",
         "min_new_tokens": "min_length", "min_length": "min_new_tokens"}  # fmt: skip
# What counts only where tokens are drawn, and the values of it that change nothing even there.
_DRAWING = {"top_k": 0, "top_p": 1, "min_p": 0, "top_h": None, "typical_p": 1,
            "epsilon_cutoff": 0, "eta_cutoff": 0}  # fmt: skip
Settings = Mapping[str, Any]


def settings_of(files: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how a sequence goes on: options that are not None, then what files say, then the
    defaults.

    A temperature says whether tokens are drawn: 0 takes the most probable one. InputError for an
    option that is unknown, out of range or without effect.
    """
    given = {name: _number(value) for name, value in options.items() if value is not None}
    for name, value in given.items():
        _check(name, value)
    said = {**given}
    if said.get("temperature") == 0:
        if said.get("do_sample"):
            raise InputError("temperature is 0 and do_sample true; at 0 nothing can be drawn")
        said["do_sample"] = False
    elif "temperature" in said:
        said.setdefault("do_sample", True)
    for name, value in files.items():
        _check(name, value)  # a manifest is only a file
    kept = {k: v for k, v in files.items() if v is not None and _SAME.get(k) not in given}
    settings = {**_DEFAULTS, **kept, **said}
    if not settings["do_sample"] and "do_sample" not in said:
        idle = next((n for n, least in _DRAWING.items() if given.get(n, least) != least), None)
        if idle is not None:
            raise InputError(
                f"{idle} counts only where tokens are drawn; give a temperature or do_sample "
                "(--sample) as well"
            )
    if settings["do_sample"] and settings["temperature"] == 0:
        raise InputError("the model's files set temperature to 0; give another one to draw tokens")
    return settings


def _number(value: Any) -> Any:
    """A number of NumPy as one of Python, which the checks know."""
    return value.item() if isinstance(value, np.generic) else value


def _check(name: str, value: Any) -> None:
    if name == "max_new_tokens" and value == 0:
        return  # nothing is written
    entry = GENERATION.find(name)
    if name not in SETTINGS or entry is None:
        raise InputError(f"{name} is no setting of generation; there are {', '.join(SETTINGS)}")
    wrong = fits(value, entry.kind)
    if wrong is None and isinstance(value, float) and not math.isfinite(value):
        wrong = "is no number"
    if wrong is not None:
        raise InputError(f"{name} is {value!r}: {wrong}")


def length_limit(settings: Settings, prompt: int, longest: int) -> int:
    """The most tokens after a prompt of `prompt` tokens, for a model that takes `longest`.

    InputError if the prompt alone is as long as the model's files let a sequence be.
    """
    # The last token need not fit into the model: nothing is computed from it.
    room = longest - prompt + 1
    most, whole = settings["max_new_tokens"], settings["max_length"]
    if most is None and whole is not None:
        most = whole - prompt
        if most < 1:
            raise InputError(
                f"the prompt has {prompt} tokens, and max_length lets a sequence have {whole}; "
                "shorten it, or give max_new_tokens (--max-new-tokens)"
            )
    return int(min(MAX_NEW_TOKENS if most is None else most, room))


def tokens(
    extend: Callable[[np.ndarray], np.ndarray], prompt: np.ndarray, count: int, settings: Settings,
    stop: Collection[int] = (), seed: int | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> Iterator[int]:  # fmt: skip
    """Up to `count` tokens after the prompt; a token of `stop` is the last one.

    `extend` appends tokens to the model's sequence and returns the logits of the last one.
    `decode` is needed where stop strings are set. The same `seed` draws the same tokens.
    """
    stops = settings["stop_strings"] or ()
    stops = (stops,) if isinstance(stops, str) else tuple(stops)
    if stops and decode is None:
        raise InputError("stop_strings are set, and the artifact has no tokenizer to find them; "
                         "compile the model with its tokenizer")  # fmt: skip
    random = _generator(seed)
    always = steps(settings, prompt, len(prompt) + count, stop)
    choose = _drawn(narrowing(settings), random) if settings["do_sample"] else _most_probable
    return _write(extend, prompt, count, [*always, choose], stop, settings["max_time"],
                  _ends_in(stops, decode) if stops and decode else lambda ids: False)  # fmt: skip


def _generator(seed: int | None) -> np.random.Generator:
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise InputError(f"seed is {seed!r}; give a whole number, 0 or more") from None


def _write(
    extend: Callable[[np.ndarray], np.ndarray], prompt: np.ndarray, count: int, rules: list[Any],
    stop: Collection[int], seconds: float | None, ended: Callable[[np.ndarray], bool],
) -> Iterator[int]:  # fmt: skip
    *always, choose = rules
    ids, length = np.concatenate([prompt, np.zeros(max(0, count), prompt.dtype)]), len(prompt)
    began, new = time.monotonic(), prompt
    for at in range(length, length + count):
        scores = np.asarray(extend(new), np.float32)
        for step in always:
            scores = step(ids[:at], scores)
        ids[at] = token = choose(ids[:at], scores)
        yield token
        late = seconds is not None and time.monotonic() - began > seconds
        if token in stop or late or ended(ids[: at + 1]):
            return
        new = np.array([token], np.int32)


def _most_probable(ids: np.ndarray, scores: np.ndarray) -> int:
    return int(scores.argmax())


def _drawn(narrow: Sequence[Step], random: np.random.Generator) -> Callable[..., int]:
    """A token drawn by its probability, after the steps that leave fewer to draw from."""

    def choose(ids: np.ndarray, scores: np.ndarray) -> int:
        for step in narrow:
            scores = step(ids, scores)
        if not np.isfinite(scores.max()):
            raise InputError("every token is ruled out; allow more, or take settings away")
        sums = np.cumsum(softmax(scores.astype(np.float64)))
        return int(np.searchsorted(sums, random.random() * sums[-1], side="right"))

    return choose


def _ends_in(
    stops: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> Callable[[np.ndarray], bool]:
    """Whether the last token completes one of the stop strings, or holds the end of one."""
    # A string has at most as many tokens as bytes. One more, as decoders may treat the first of a
    # text by other rules.
    most = max(len(s.encode()) for s in stops) + 1

    def ended(ids: np.ndarray) -> bool:
        tail = ids[-most:].tolist()
        text, before = decode(tail), decode(tail[:-1]).rstrip(_INCOMPLETE)
        return any(text.rfind(s) + len(s) > len(before) for s in stops if s in text)

    return ended


def pieces(decode: Callable[[Sequence[int]], str], source: Iterator[int]) -> Iterator[str]:
    """The text of the tokens, piece by piece; a character of several tokens comes in one piece."""
    taken: list[int] = []
    done = ""
    for token in source:
        taken.append(token)
        text = decode(taken)
        if not text.endswith(_INCOMPLETE):
            yield text[len(done) :]
            done = text
    if taken:
        yield decode(taken)[len(done) :]


def described(settings: Mapping[str, Any], stop: Sequence[int]) -> str:
    """What a model's files say of how its texts are continued, in a line for people."""
    whole = settings_of(settings, {})
    said = [name for name in SETTINGS if settings.get(name) not in (None, _DEFAULTS[name])]
    if whole["do_sample"]:
        first = f"tokens are drawn at temperature {whole['temperature']:g}, top_k {whole['top_k']}"
        first += f", top_p {whole['top_p']:g}"
        said = [n for n in said if n not in ("do_sample", "temperature", "top_k", "top_p")]
    else:
        first = "the most probable token"
        said = [n for n in said if n not in (*_DRAWING, "do_sample", "temperature")]
    rest = [f"{name} {_short(settings[name])}" for name in said]
    end = f"ends at token {', '.join(map(str, stop))}" if stop else "no end token"
    return ", ".join([first, *rest, end])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
