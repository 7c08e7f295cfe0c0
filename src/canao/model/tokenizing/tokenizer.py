"""The tokenizer of a model directory, as the tokenizer.json that an artifact carries.

Token ids are those of `transformers.AutoTokenizer`: the files are judged first, entry by entry and
in a process with limits, then Transformers loads them, and what it ends up with is written down as
one tokenizer.json, so that running the model needs nothing but the `tokenizers` library. On a
corpus of odd texts both must give the same ids. Settings that act outside of tokenizer.json, such
as the end of a text that is cut off, go into the manifest (`TextSettings`).
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from canao.artifact.files import write_json
from canao.artifact.reading import MAX_BYTES, fits, parse_json, read_json, shown
from canao.artifact.text_settings import TextSettings
from canao.errors import InputError
from canao.model.inventory.inventory import IGNORED, Inventory
from canao.model.inventory.table import INERT, USED, Entry, used
from canao.model.inventory.tables.tokenizer import (
    ADDED_TOKEN,
    ADDED_TOKENS_FILE,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    VOCABULARIES,
    Id,
)
from canao.model.tokenizing.attempt import try_directory, try_form
from canao.model.tokenizing.corpus import PAIRS, TEXTS
from canao.model.tokenizing.form import (
    Form,
    check_form,
    kind_of,
    patterns,
    token_count,
    unread,
    without_vocabulary,
)

_FORM, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_SPECIAL, _ADDED = "special_tokens_map.json", "added_tokens.json"
# Entries of config.json that AutoTokenizer looks at.
_OF_THE_MODEL = ("model_type", "model_name", "tokenizer_class", "transformers_version")
# Entries that some classes of tokenizers read and others do not.
_OF_A_CLASS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space",
               "trim_offsets", "keep_accents", "remove_space", "split_by_punct", "legacy",
               "extra_ids", "unk_id")  # fmt: skip
# Entries that hold one token, or several.
_ONE, _SEVERAL = "_token", ("additional_special_tokens", "extra_special_tokens",
                            "model_specific_special_tokens")  # fmt: skip
# Longer lengths, such as Transformers' 1e30, mean that nothing limits a text.
_NO_LIMIT = 1 << 31
_AGAIN = "save the tokenizer again"
_FROM_PYTHON = ("give --ignore {name} to compile the model without its tokenizer, and give it "
                "token ids from Python: compiled(tokenizer(text)['input_ids'])")  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer that was read and works, as an artifact carries it.

    contents     its files by name: tokenizer.json, as it ends up after all settings
    description  the manifest's entry `tokenizer` (see `TextSettings`)
    ids          every id of its vocabulary is below this; tokens that were added may lie above
    given        the ids that it puts into every text
    """

    contents: Mapping[str, bytes]
    description: Mapping[str, Any]
    ids: int
    given: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenTokenizer:
    """A tokenizer as Transformers loads it, and the one of the `tokenizers` library that gives the
    same ids; `settings` is what the manifest says of it, `source` a file that it is read from."""

    python: Any
    fast: Any
    settings: TextSettings
    source: Path


def read_tokenizer(
    path: Path | None, inventory: Inventory | None = None
) -> TokenizerFiles | None:
    """The tokenizer in a model directory; None if there is none, or if it was refused.

    What becomes of its files and their entries is noted in `inventory`; without one, a refusal is
    an UnsupportedError. InputError for files that cannot be read.
    """
    found = open_tokenizer(path, inventory)
    if found is None:
        return None
    fast = found.fast
    both = fast.encode("a", "a")
    given = [i for i, special in zip(both.ids, both.special_tokens_mask, strict=True) if special]
    unknown = next((i for i in given if fast.id_to_token(i) is None), None)
    if unknown is not None:
        raise InputError(
            f"{found.source}: id {unknown} is put into every text and is no token of the "
            "vocabulary; correct the post_processor"
        )
    ids = 1 + max(fast.get_vocab(with_added_tokens=False).values(), default=-1)
    contents = {_FORM: fast.to_str().encode()}
    return TokenizerFiles(contents, found.settings.to_dict(), ids, tuple(sorted(set(given))))


def open_tokenizer(
    path: Path | None, inventory: Inventory | None = None
) -> OpenTokenizer | None:
    """As `read_tokenizer`, for whoever needs Transformers' own tokenizer as well."""
    if path is None or not vocabulary_files(path):
        return None
    own = inventory or Inventory(path)
    found = _open(path, own) if _judged(path, own) else None
    if inventory is None:
        own.require()
    return found


def vocabulary_files(path: Path) -> tuple[Path, ...]:
    """The files of a directory that hold a tokenizer's vocabulary, tokenizer.json first."""
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return ()
    known = [n for pattern in (_FORM, *VOCABULARIES) for n in names if fnmatchcase(n, pattern)]
    return tuple(path / n for n in dict.fromkeys(known))


def describe_tokenizer(path: Path | None) -> dict[str, Any] | None:
    """Kind, size, files and mask token of a directory's tokenizer, as far as can be said without
    loading it; None if there is none. InputError for files that cannot be read."""
    files = vocabulary_files(path) if path is not None else ()
    if path is None or not files:
        return None
    names = " + ".join(f.name for f in files)
    if files[0].name != _FORM:
        kind = next((k for end, k in _KINDS if names.startswith(end)), "")
        return {"kind": kind, "tokens": None, "file": names, "mask": _named_mask(path)}
    form = read_json(files[0], remedy=_AGAIN)
    check_form(str(files[0]), form)
    added = [token.get("content") for token in form.get("added_tokens") or ()]
    usual = next((token for token in ("[MASK]", "<mask>") if token in added), None)
    return {"kind": kind_of(form), "tokens": token_count(form), "file": _FORM,
            "mask": _named_mask(path) or usual}  # fmt: skip


_KINDS = (("vocab.txt", "WordPiece"), ("merges.txt", "BPE"), ("vocab.json", "BPE"),
          ("sp", "Unigram"), ("sentencepiece", "Unigram"))  # fmt: skip


def _named_mask(path: Path) -> str | None:
    """The mask token that the settings name."""
    for name in (_SPECIAL, _CONFIG):
        token = read_json(path / name).get("mask_token") if (path / name).is_file() else None
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            return text
    return None


# Judging the files, before a library sees them.


def _judged(path: Path, inventory: Inventory) -> bool:
    """Whether nothing of a tokenizer's files is refused; InputError if one cannot be read."""
    before = len(inventory.refusals)
    for file in vocabulary_files(path):
        if not file.is_file() or file.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{file}: is not a regular file of at most {MAX_BYTES} bytes; {_AGAIN}"
            )
        inventory.file(file, USED, "the vocabulary")
    config = _settings(path, inventory)
    decoder = config.get("added_tokens_decoder")
    for index, token in (decoder or {}).items():
        place = f"added_tokens_decoder.{index}"
        if fits(int(index) if index.isdecimal() else index, Id):
            inventory.refuse(path / _CONFIG, place, f"'{place}' is no id; correct it")
        _judge_token(path / _CONFIG, place, token, inventory)
    _judge_older(path, inventory, unread=decoder is not None)
    if (path / _FORM).is_file():
        _judge_form(path / _FORM, inventory)
    return len(inventory.refusals) == before


def _settings(path: Path, inventory: Inventory) -> dict[str, Any]:
    """The used entries of tokenizer_config.json."""
    if not _there(path / _CONFIG):
        return {}
    values = read_json(path / _CONFIG, remedy=_AGAIN)
    unlisted = partial(_setting_of_a_class, path, values)
    found = inventory.settings(path / _CONFIG, TOKENIZER_CONFIG, unlisted, values=values)
    _judge_tokens(path / _CONFIG, found, inventory)
    return found


def _setting_of_a_class(
    path: Path, values: Mapping[str, Any], name: str, _value: Any
) -> Entry | None:
    """An entry that a class reads which may be the tokenizer's."""
    for kind in _classes(path, values):
        if name in _parameters(kind):
            return used(f"a setting of {kind.__name__}")
    return None


def _judge_tokens(file: Path, values: Mapping[str, Any], inventory: Inventory) -> None:
    """Judge the tokens that settings name, each of which may be an object of its own."""
    for name, value in values.items():
        if name in _SEVERAL and isinstance(value, (list, dict)):
            several = value.items() if isinstance(value, dict) else enumerate(value)
            for key, token in several:
                _judge_token(file, f"{name}.{key}", token, inventory)
        elif name.endswith(_ONE):
            _judge_token(file, name, value, inventory)


def _judge_token(file: Path, place: str, token: Any, inventory: Inventory) -> None:
    """Note what is refused of a token. There may be thousands, so nothing else is noted of them."""
    if not isinstance(token, dict):
        if token == "":
            why = f"'{place}' is an empty text; name a token, or take it out"
            inventory.refuse(file, place, why)
        return
    apart = Inventory(inventory.root)
    apart.settings(file, ADDED_TOKEN, values=token, inside=place)
    for refusal in apart.refusals:
        inventory.refuse(file, refusal.entry, refusal.note)
    if "content" not in token:
        inventory.refuse(file, place, f"'{place}' has no content; {_AGAIN}")


def _judge_older(path: Path, inventory: Inventory, *, unread: bool) -> None:
    """Judge the files that newer versions of Transformers write into tokenizer_config.json."""
    for name in (_SPECIAL, _ADDED):
        file = path / name
        if not _there(file):
            continue
        values = read_json(file, remedy=_AGAIN)
        if unread:
            why = f"{_CONFIG} has added_tokens_decoder, which is read instead"
            inventory.file(file, INERT, why)
        elif name == _SPECIAL:
            found = inventory.settings(file, SPECIAL_TOKENS_MAP, values=values)
            _judge_tokens(file, found, inventory)
        else:
            inventory.file(file, USED, ADDED_TOKENS_FILE.does)
            for token, index in values.items():
                wrong = fits(index, ADDED_TOKENS_FILE.kind)
                if wrong is not None:
                    inventory.refuse(file, token, f"'{token}' {wrong}; {_AGAIN}")


def _judge_form(file: Path, inventory: Inventory) -> None:
    """Judge a tokenizer.json: by what it says, and by how the library understands it."""
    form = read_json(file, remedy=_AGAIN)
    check_form(str(file), form)
    inventory.settings(file, TOKENIZER_JSON, values=form)
    for i, token in enumerate(form.get("added_tokens") or ()):
        _judge_token(file, f"added_tokens.{i}", token, inventory)
    if any(refusal.file == inventory.relative(file) for refusal in inventory.refusals):
        return
    understood = _tried(file, form)
    for entry in unread(without_vocabulary(form), understood):
        if entry.partition(".")[0] not in ("added_tokens", "version"):
            inventory.refuse(file, entry, f"'{entry}' is not known to the tokenizers library; "
                             "take it out if ids are the same without it")  # fmt: skip


def _tried(file: Path, form: Form) -> Form:
    """How the library understands a form without its vocabulary; InputError if it should not."""
    check_form(str(file), form)
    return try_form(str(file), without_vocabulary(form), patterns(form))


# Loading them.


def _open(path: Path, inventory: Inventory) -> OpenTokenizer | None:
    """What Transformers makes of files that were judged; None if that is refused."""
    files = vocabulary_files(path)
    first = files[0]
    if first.name != _FORM and any(map(_in_python, _named_classes(path))):
        _refuse_python(path, first, inventory)
        return None
    _need_sentencepiece(files)
    with _without_ignored(path, inventory) as folder:
        if first.name != _FORM:
            try_directory(str(first), folder)
        python = _load(folder, first)
    if not python.is_fast:
        _refuse_python(path, first, inventory, type(python))
        return None
    read = _files_read(files, python)
    _note_unread(path, files, read, python, inventory)
    try:
        fast = _library_tokenizer(python)
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        _refuse(inventory, first, f"a part of it is written in Python ({_first_line(error)})")
        return None
    form = parse_json(fast.to_str(), str(first), remedy=_AGAIN)
    _tried(first, form)
    settings = _text_settings(python, form, read)
    different = _difference(first, python, fast, settings)
    if different is not None:
        _refuse(inventory, first, different)
        return None
    return OpenTokenizer(python, fast, settings, first)


def _load(folder: Path, first: Path) -> Any:
    """Transformers' tokenizer of `folder`."""
    try:
        return _quietly(lambda: _auto_tokenizer(folder))
    except Exception as error:  # noqa: BLE001  readers of vocabularies raise bare Exception
        raise InputError(
            f"{first}: cannot be read as a tokenizer ({_first_line(error)}); correct the class "
            f"and the special tokens in {_CONFIG}, or {_AGAIN}"
        ) from None


def _auto_tokenizer(folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )


def _library_tokenizer(python: Any) -> Any:
    """The tokenizers library's own, as an artifact holds it."""
    import tokenizers

    fast = tokenizers.Tokenizer.from_str(python.backend_tokenizer.to_str())
    fast.no_padding()
    fast.no_truncation()
    fast.encode_special_tokens = bool(python.split_special_tokens)
    return fast


def _text_settings(python: Any, form: Form, read: Sequence[Path]) -> TextSettings:
    """What is not in tokenizer.json."""
    limit = python.model_max_length
    kind = kind_of(form)
    forced = python.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    return TextSettings(
        kind=kind,
        tokens=token_count(form),
        file=" + ".join(file.name for file in read),
        reader=type(python).__name__,
        mask=python.mask_token,
        truncation_side=python.truncation_side,
        max_tokens=int(limit) if limit < _NO_LIMIT else None,
        type_ids="token_type_ids" in python.model_input_names,
        split_special_tokens=bool(python.split_special_tokens),
        clean_up_spaces=bool(python.clean_up_tokenization_spaces and (kind != "BPE" or forced)),
    )


def _difference(first: Path, python: Any, fast: Any, settings: TextSettings) -> str | None:
    """What the two make of the first text of the corpus that they encode or decode differently."""
    for text, pair in (*((text, None) for text in TEXTS), *PAIRS):
        try:
            want = _quietly(partial(python, text, pair))
            got = fast.encode(text, pair)
            words = _quietly(partial(python.decode, got.ids, skip_special_tokens=True))
        except Exception as error:  # noqa: BLE001  the library raises bare Exception
            raise InputError(
                f"{first}: the tokenizer cannot read {shown(text)} ({_first_line(error)}); correct "
                "its vocabulary and special tokens"
            ) from None
        types = want.get("token_type_ids", got.type_ids)
        same = list(want["input_ids"]) == got.ids and list(types) == got.type_ids
        if not same:
            return (f"for {shown(text)} the tokenizer {type(python).__name__} makes ids "
                    f"{shown(list(want['input_ids']))}, and the tokenizers library "
                    f"{shown(got.ids)}")  # fmt: skip
        if words != settings.cleaned(fast.decode(got.ids, skip_special_tokens=True)):
            return (f"{shown(got.ids)} is another text to the tokenizer {type(python).__name__} "
                    "than to the tokenizers library")  # fmt: skip
    return None


def _files_read(files: Sequence[Path], python: Any) -> tuple[Path, ...]:
    """Which of the vocabulary files a tokenizer was made from.

    InputError if its class reads others: Transformers then makes one of a few special tokens.
    """
    if files[0].name == _FORM:
        return tuple(files[:1])
    names = {n for k, n in python.vocab_files_names.items() if k != "tokenizer_file" and n}
    read = tuple(file for file in files if file.name in names)
    # Whatever the class, Transformers takes these if they are there.
    usual = tuple(f for f in files if fnmatchcase(f.name, "tokenizer.model*")
                  or f.name in ("tekken.json", "tiktoken.model"))  # fmt: skip
    backend, special = python.backend_tokenizer, set(python.all_special_tokens)
    lacking = sorted(names - {file.name for file in read})
    if usual and lacking:
        read, lacking = usual, []
    if lacking:
        raise InputError(
            f"{files[0]}: the tokenizer {type(python).__name__} reads {' and '.join(sorted(names))}"
            f", and {lacking[0]} is not there; name the right tokenizer_class in {_CONFIG}"
        )
    if backend.get_vocab_size() <= len(special):
        raise InputError(
            f"{read[0]}: no vocabulary is read from it for the tokenizer {type(python).__name__}; "
            "save the tokenizer as tokenizer.json"
        )
    return read


def _note_unread(
    path: Path, files: Sequence[Path], read: Sequence[Path], python: Any, inventory: Inventory
) -> None:
    """Note what Transformers' class of tokenizer leaves alone."""
    kind = type(python)
    for file in files:
        if file not in read:
            why = f"{kind.__name__} reads {' and '.join(f.name for f in read)}"
            inventory.file(file, INERT, why)
    own = inspect.isfunction(kind.__dict__.get("__init__")) and not _is_base(kind)
    known = {name for parent in kind.__mro__ for name in _parameters(parent)}
    whole = read[0].name == _FORM
    for finding in inventory.findings:
        if finding.status != USED or finding.file != inventory.relative(path / _CONFIG):
            continue
        if whole and finding.entry in ("add_bos_token", "add_eos_token"):
            inventory.note(path / _CONFIG, finding.entry, INERT, f"{_FORM} decides")
        elif finding.entry in _OF_A_CLASS and finding.entry not in known and (
            whole or finding.entry != "legacy"
        ):
            why = f"{kind.__name__} reads no such entry"
            inventory.note(path / _CONFIG, finding.entry, INERT, why)
    for part in ("normalizer", "pre_tokenizer", "decoder") if whole and own else ():
        inventory.note(path / _FORM, part, INERT, f"{kind.__name__} has its own, by {_CONFIG}")


# Classes of Transformers.


def _named_classes(path: Path) -> list[type]:
    """The classes of tokenizers that the settings name."""
    found = []
    for name in (_CONFIG, "config.json"):
        named = read_json(path / name).get("tokenizer_class") if (path / name).is_file() else None
        found += [kind for kind in [_class(named)] if kind is not None]
    return found


def _classes(path: Path, config: Mapping[str, Any]) -> list[type]:
    """The classes that may read a directory: those that are named, and the family's own."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    model = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    family = model.get("model_type")
    names = [config.get("tokenizer_class"), model.get("tokenizer_class"),
             TOKENIZER_MAPPING_NAMES.get(family) if isinstance(family, str) else None,
             "TokenizersBackend"]  # fmt: skip
    return [kind for kind in map(_class, names) if kind is not None]


def _class(name: Any) -> type | None:
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if not isinstance(name, str) or not name.isidentifier():
        return None
    try:
        found = tokenizer_class_from_name(name) or tokenizer_class_from_name(f"{name}Fast")
    except Exception:  # noqa: BLE001  modules that need packages which are not installed
        return None
    return found if isinstance(found, type) else None


def _in_python(kind: type) -> bool:
    """Whether a class of tokenizers is none of the tokenizers library."""
    import transformers

    return issubclass(kind, transformers.PreTrainedTokenizerBase) and not issubclass(
        kind, transformers.PreTrainedTokenizerFast
    )


def _is_base(kind: type) -> bool:
    import transformers

    return kind is transformers.PreTrainedTokenizerFast


def _parameters(kind: type) -> frozenset[str]:
    init = kind.__dict__.get("__init__")
    if not inspect.isfunction(init):
        return frozenset()
    return frozenset(inspect.signature(init).parameters) - {"self", "args", "kwargs"}


# Helpers.


def _refuse_python(
    path: Path, file: Path, inventory: Inventory, kind: type | None = None
) -> None:
    kind = kind or next(filter(_in_python, _named_classes(path)))
    _refuse(inventory, file, f"the tokenizer {kind.__name__} is written in Python, and an artifact "
            "holds one of the tokenizers library")  # fmt: skip


def _refuse(inventory: Inventory, file: Path, why: str) -> None:
    remedy = _FROM_PYTHON.format(name=inventory.relative(file))
    inventory.refuse(file, "", f"{why}; {remedy}")


def _need_sentencepiece(files: Sequence[Path]) -> None:
    """InputError if a model of SentencePiece is there and what converts it is not."""
    first = next((f for f in files if f.name.endswith((".model", ".spm"))), None)
    if files[0].name == _FORM or first is None:
        return
    for package, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")):
        if not _installed(module):
            raise InputError(
                f"{first}: needs {package} to be converted; install that (pip install {package}), "
                f"or save the tokenizer as {_FORM} where it is installed"
            )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


@contextmanager
def _without_ignored(path: Path, inventory: Inventory) -> Iterator[Path]:
    """The directory, or a copy of its tokenizer without entries that were ignored on request."""
    ignored: dict[str, list[str]] = {}
    for finding in inventory.findings:
        if finding.note == IGNORED and finding.entry:
            ignored.setdefault(finding.file, []).append(finding.entry)
    names = [_CONFIG, _SPECIAL, _ADDED, _FORM, "config.json"]
    if not any(inventory.relative(path / name) in ignored for name in names):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="canao-") as folder:
        copy = Path(folder)
        for file in vocabulary_files(path):
            shutil.copyfile(file, copy / file.name)
        for name in names:
            if (path / name).is_file():
                values = read_json(path / name)
                for entry in ignored.get(inventory.relative(path / name), ()):
                    _remove(values, entry.split("."))
                if name == "config.json":
                    values = {k: v for k, v in values.items() if k in _OF_THE_MODEL}
                write_json(copy / name, values)
        yield copy


def _remove(values: Any, entry: list[str]) -> None:
    """Take the entry 'a.b' out of nested objects and lists."""
    for step in entry[:-1]:
        values = values[int(step)] if isinstance(values, list) else values.get(step)
    if isinstance(values, dict):
        values.pop(entry[-1], None)


def _quietly(action: Callable[[], Any]) -> Any:
    """Run it without what Transformers logs; what the Rust of a library breaks with is raised as a
    RuntimeError."""
    import transformers

    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return action()
    except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  a panic is no Exception
        raise RuntimeError(_first_line(error)) from None
    finally:
        logging.set_verbosity(level)


def _there(file: Path) -> bool:
    """Whether a file of that name is there, of whatever kind."""
    return os.path.lexists(file)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
