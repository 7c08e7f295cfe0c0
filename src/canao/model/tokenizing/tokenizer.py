"""The tokenizer of a model directory, as the tokenizer.json that an artifact carries.

Token ids are those of `transformers.AutoTokenizer`: the files are judged first, entry by entry and
in a process with limits, then Transformers loads them, and what it ends up with is written down as
one tokenizer.json, so that running the model needs nothing but the `tokenizers` library. On a
corpus of odd texts both must give the same ids. Settings that act outside of tokenizer.json, such
as the end of a text that is cut off, go into the manifest (`TextSettings`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from canao.artifact.reading import first_line, parse_json, shown
from canao.artifact.text_settings import TextSettings
from canao.errors import InputError
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, USED
from canao.model.tokenizing.attempt import try_directory
from canao.model.tokenizing.classes import in_python, is_base, named_classes, parameters
from canao.model.tokenizing.corpus import PAIRS, TEXTS
from canao.model.tokenizing.files import AGAIN, CONFIG, FORM, vocabulary_files, without_ignored
from canao.model.tokenizing.form import Form, kind_of, token_count
from canao.model.tokenizing.judging import judged, tried

# Entries that some classes of tokenizers read and others do not.
_OF_A_CLASS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space",
               "trim_offsets", "keep_accents", "remove_space", "split_by_punct", "legacy",
               "extra_ids", "unk_id")  # fmt: skip
# Longer lengths, such as Transformers' 1e30, mean that nothing limits a text.
_NO_LIMIT = 1 << 31
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
    contents = {FORM: fast.to_str().encode()}
    return TokenizerFiles(contents, found.settings.to_dict(), ids, tuple(sorted(set(given))))


def open_tokenizer(
    path: Path | None, inventory: Inventory | None = None
) -> OpenTokenizer | None:
    """As `read_tokenizer`, for whoever needs Transformers' own tokenizer as well."""
    if path is None or not vocabulary_files(path):
        return None
    own = inventory or Inventory(path)
    found = _open(path, own) if judged(path, own) else None
    if inventory is None:
        own.require()
    return found


def _open(path: Path, inventory: Inventory) -> OpenTokenizer | None:
    """What Transformers makes of files that were judged; None if that is refused."""
    files = vocabulary_files(path)
    first = files[0]
    if first.name != FORM and any(map(in_python, named_classes(path))):
        _refuse_python(path, first, inventory)
        return None
    _need_sentencepiece(files)
    with without_ignored(path, inventory) as folder:
        if first.name != FORM:
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
        _refuse(inventory, first, f"a part of it is written in Python ({first_line(error)})")
        return None
    form = parse_json(fast.to_str(), str(first), remedy=AGAIN)
    tried(first, form)
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
            f"{first}: cannot be read as a tokenizer ({first_line(error)}); correct the class "
            f"and the special tokens in {CONFIG}, or {AGAIN}"
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
                f"{first}: the tokenizer cannot read {shown(text)} ({first_line(error)}); correct "
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
    if files[0].name == FORM:
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
            f", and {lacking[0]} is not there; name the right tokenizer_class in {CONFIG}"
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
    own = inspect.isfunction(kind.__dict__.get("__init__")) and not is_base(kind)
    known = {name for parent in kind.__mro__ for name in parameters(parent)}
    whole = read[0].name == FORM
    for finding in inventory.findings:
        if finding.status != USED or finding.file != inventory.relative(path / CONFIG):
            continue
        if whole and finding.entry in ("add_bos_token", "add_eos_token"):
            inventory.note(path / CONFIG, finding.entry, INERT, f"{FORM} decides")
        elif finding.entry in _OF_A_CLASS and finding.entry not in known and (
            whole or finding.entry != "legacy"
        ):
            why = f"{kind.__name__} reads no such entry"
            inventory.note(path / CONFIG, finding.entry, INERT, why)
    for part in ("normalizer", "pre_tokenizer", "decoder") if whole and own else ():
        inventory.note(path / FORM, part, INERT, f"{kind.__name__} has its own, by {CONFIG}")


def _refuse_python(
    path: Path, file: Path, inventory: Inventory, kind: type | None = None
) -> None:
    kind = kind or next(filter(in_python, named_classes(path)))
    _refuse(inventory, file, f"the tokenizer {kind.__name__} is written in Python, and an artifact "
            "holds one of the tokenizers library")  # fmt: skip


def _refuse(inventory: Inventory, file: Path, why: str) -> None:
    remedy = _FROM_PYTHON.format(name=inventory.relative(file))
    inventory.refuse(file, "", f"{why}; {remedy}")


def _need_sentencepiece(files: Sequence[Path]) -> None:
    """InputError if a model of SentencePiece is there and what converts it is not."""
    first = next((f for f in files if f.name.endswith((".model", ".spm"))), None)
    if files[0].name == FORM or first is None:
        return
    for package, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")):
        if not _installed(module):
            raise InputError(
                f"{first}: needs {package} to be converted; install that (pip install {package}), "
                f"or save the tokenizer as {FORM} where it is installed"
            )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


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
        raise RuntimeError(first_line(error)) from None
    finally:
        logging.set_verbosity(level)
