"""CompiledModel: an artifact loaded into this process. NumPy in, NumPy out; texts in, results out.

The library runs texts without padding. An `attention_mask`, as Transformers defines it, says what
of a batch is padding: that is cut off before any work, and the outputs are put back in its place.
"""

from __future__ import annotations

import ctypes
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from canao.artifact import Artifact
from canao.errors import DeviceError, InputError
from canao.generate import Sampling, pieces, tokens
from canao.target import Target, get_target
from canao.tasks import GENERATION, Prepared, Reader, prepare, tell

_ISA_ORDER = ("scalar", "avx2", "avx512")
_STATUS_OK, _STATUS_BUSY = 0, 8


class CompiledModel:
    """A compiled library, its weights mapped. Calls from several threads take turns.

    Raises DeviceError if the library cannot run on this machine, InputError if it is damaged.
    """

    def __init__(
        self, artifact: Artifact | str | Path, threads: int = 1, cores: Sequence[int] = ()
    ) -> None:
        self.artifact = artifact if isinstance(artifact, Artifact) else Artifact.load(artifact)
        if not 1 <= threads <= 64:
            raise InputError(f"threads is {threads}; give 1 to 64")
        if cores and len(cores) != threads:
            raise InputError(f"{len(cores)} cores named for {threads} threads; name one for each")
        self.threads = threads
        require_runnable(self.artifact, get_target())
        self._inputs = self.artifact.manifest["inputs"]
        self._outputs = self.artifact.manifest["outputs"]
        self._lock = threading.Lock()
        self._texts: Reader | None = None
        self._text_length = 0
        self._library = _library(self.artifact.library)
        handle = ctypes.c_void_p()
        pinned = (ctypes.c_int * threads)(*cores) if cores else None
        path = str(self.artifact.weights).encode()
        self._check(self._library.canao_open(path, threads, pinned, ctypes.byref(handle)))
        self._handle = handle
        self._close = weakref.finalize(self, self._library.canao_close, handle)

    def close(self) -> None:
        """Unmap the weights and end the threads. A closed model cannot be called again."""
        with self._lock:
            self._close()

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, *inputs: Any, **named: Any) -> np.ndarray:
        """The first output (logits, or the last hidden state) for ids of shape [s] or [batch, s].

        Called as `compiled(input_ids, token_type_ids=None, attention_mask=None)`: inputs in the
        order of the manifest, then the mask, or by name. token_type_ids may be left out and are
        then 0. Threads share out the texts of a batch; see `run_batch` for texts of several
        lengths without padding. InputError names what is wrong.
        """
        return next(iter(self.run(*inputs, **named).values()))

    def run(self, *inputs: Any, **named: Any) -> dict[str, np.ndarray]:
        """Every output by name; a batch dimension in the ids is one in the outputs.

        attention_mask holds a 1 for each token and a 0 for padding. Each text gives what it gives
        alone, as in Transformers for a model that attends to no padding; outputs that have a
        value for each token are 0 at the padding. Padding at the start is refused where the
        model would count positions from it, and zeros between ones always.
        """
        arrays, mask = self._bind_masked(inputs, named)
        if arrays[0].ndim == 1 and mask is None:
            return {k: v[0] for k, v in self._one(arrays).items()}
        batch = [np.atleast_2d(a) for a in arrays]
        masks = [None] * len(batch[0]) if mask is None else np.atleast_2d(mask)
        spans = [self._span(i, row, batch[0].shape[1]) for i, row in enumerate(masks)]
        rows = self._many([[a[i, span] for a in batch] for i, span in enumerate(spans)])
        length = batch[0].shape[1]
        out = {
            o["name"]: np.concatenate(
                [_padded(o, row[o["name"]], span, length)
                 for row, span in zip(rows, spans, strict=True)]
            )
            for o in self._outputs
        }  # fmt: skip
        return out if arrays[0].ndim == 2 else {k: v[0] for k, v in out.items()}

    def run_batch(self, batch: Sequence[Any]) -> list[np.ndarray]:
        """What `__call__` gives for each text of a batch, in order; lengths may differ.

        A text is its ids alone, of shape [s]; or all inputs in the order of the manifest, each
        [s]; or a mapping from names to them: what `__call__` takes, as one value. The result is
        the first output of each text, without a batch dimension, and the same to the bit as from
        one call a text. Threads share out the texts. Nothing runs unless all texts are right:
        InputError says which is not and why; DeviceError if the library cannot run batches.
        """
        bound = []
        for i, text in enumerate(batch):
            try:
                bound.append(self._bind_text(text))
            except InputError as error:
                raise InputError(f"text {i}: {error}") from None
        return [next(iter(row.values()))[0] for row in self._many(bound)]

    @property
    def text_length(self) -> int:
        """Tokens of the text that `extend` has made, and whose keys and values are kept."""
        return self._text_length

    def extend(self, *inputs: Any, wanted: int = 1, **named: Any) -> dict[str, np.ndarray]:
        """Append tokens, ids of shape [s], to the model's text; every output by name, with rows
        [wanted, ...] for the last of these tokens only. Decoders can; others are an InputError.

        `run`, `run_batch` and calling the model start anew: the text is empty after them.
        """
        self._require_text()
        arrays = self._bind(inputs, named)
        if arrays[0].ndim != 1:
            raise InputError(f"input_ids has shape {list(arrays[0].shape)}; give [s]")
        ids = self._checked(arrays)
        length = len(ids[0])
        if not 0 <= wanted <= length:
            raise InputError(f"outputs of {wanted} tokens are wanted; {length} are given")
        if self._text_length + length > self.artifact.max_length:
            raise InputError(
                f"{length} tokens after {self._text_length} are over the model's maximum, "
                f"{self.artifact.max_length}"
            )
        out = self._room(wanted) if wanted else {}
        sources, targets = _row(ids), _row(list(out.values()))
        self._locked(self._library.canao_extend, sources, length, wanted, targets)
        self._text_length += length
        return {name: array[0] for name, array in out.items()}

    def reset(self, kept: int = 0) -> None:
        """Forget the text that `extend` has made, but for its first `kept` tokens."""
        self._require_text()
        if not 0 <= kept <= self._text_length:
            raise InputError(f"{kept} tokens cannot be kept; the text has {self._text_length}")
        self._locked(self._library.canao_reset, kept)
        self._text_length = kept

    def stream(
        self, prompt: str | Any, max_new_tokens: int = 64, *, temperature: float = 0.0,
        top_k: int = 0, top_p: float = 1.0, seed: int | None = None,
        stop: Sequence[int] | None = None,
    ) -> Iterator[int]:  # fmt: skip
        """New tokens after the prompt, a text or ids of shape [s], as they are computed.

        Greedy at temperature 0. It ends after a token of `stop` (default: those that end the
        model's texts), after `max_new_tokens`, or where the model's maximum length is reached.
        """
        self._require_text()
        sampling = Sampling(temperature, top_k, top_p, seed)
        ids = self._prompt(prompt)
        if max_new_tokens < 0:
            raise InputError(f"max_new_tokens is {max_new_tokens}; give 0 or more")
        ends = self.artifact.manifest.get("stop_tokens", ()) if stop is None else stop
        count = min(max_new_tokens, self.artifact.max_length - len(ids) + 1)
        self.reset()
        return tokens(lambda new: next(iter(self.extend(new).values()))[-1], ids, count, sampling,
                      tuple(ends))  # fmt: skip

    def generate(self, prompt: str | Any, max_new_tokens: int = 64, **options: Any) -> np.ndarray:
        """All new tokens after the prompt, int32 [n]; options as for `stream`."""
        return np.array(list(self.stream(prompt, max_new_tokens, **options)), np.int32)

    def stream_text(
        self, prompt: str | Any, max_new_tokens: int = 64, **options: Any
    ) -> Iterator[str]:
        """The text after the prompt, piece by piece; options as for `stream`."""
        source, tokenizer = self.stream(prompt, max_new_tokens, **options), self._reader().tokenizer
        return pieces(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), source)

    def stream_prepared(self, prepared: Prepared) -> Iterator[str]:
        """As `stream_text`, for a text that `prepare` has made of the prompt and its options."""
        return self.stream_text(prepared.windows[0].ids, **prepared.options)

    def _require_text(self) -> None:
        if not self.artifact.resumes:
            raise InputError(
                f"{self.artifact.path}: the model does not continue texts; "
                "compile a decoder with causal attention"
            )

    def _prompt(self, prompt: str | Any) -> np.ndarray:
        """Ids of a prompt, not cut."""
        if not isinstance(prompt, str):
            ids = _ids("prompt", prompt)
            if ids.ndim == 2 and len(ids) == 1:
                ids = ids[0]
        else:
            ids = np.array(self._reader().whole(prompt).ids, np.int32)
        if ids.ndim != 1 or not 1 <= len(ids) <= self.artifact.max_length:
            raise InputError(
                f"the prompt has shape {list(ids.shape)}; give 1 to "
                f"{self.artifact.max_length} tokens of one text"
            )
        return self._checked([ids])[0]

    def predict(
        self, text: str | Sequence[str], pair: str | Sequence[str] | None = None, *,
        context: str | Sequence[str] | None = None, truncate: bool | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """What the model's task says of a text, or of each of a list of texts.

            text-classification    Prediction        top; a pair of texts if there are two
            text-regression        Prediction
            token-classification   list of Entity    aggregate: first, average, max, simple, none
            question-answering     list of Answer    top, max_answer_tokens; context or pair
            fill-mask              lists of Filling, one for each mask    top
            feature-extraction     array [s, width]  pooling (then [width]), normalize
            sentence-embedding     array [width]
            text-generation        text after it     max_new_tokens and the options of `stream`

        A text longer than the model is an InputError, or cut where `truncate` is true; a long
        context is read in windows, and so is a text whose tokens are classified. Sentence
        embeddings are cut as Sentence-Transformers cuts them.
        """
        if context is not None and pair is not None:
            raise InputError("pair and context are both given; the context is the second text")
        pair = context if pair is None else pair
        if isinstance(text, str):
            if not (pair is None or isinstance(pair, str)):
                raise InputError("one text is given and several second texts; give a list of each")
            prepared = [self.prepare(text, pair, truncate=truncate, **options)]
            return self.predict_prepared(prepared)[0]
        if not isinstance(text, Sequence):
            raise InputError(f"the text is {type(text).__name__}; give a string, or a list of them")
        pairs = [pair] * len(text) if pair is None or isinstance(pair, str) else list(pair)
        if len(pairs) != len(text):
            raise InputError(f"{len(text)} texts and {len(pairs)} second texts; give as many")
        prepared = []
        for i, (one, other) in enumerate(zip(text, pairs, strict=True)):
            try:
                prepared.append(self.prepare(one, other, truncate=truncate, **options))
            except InputError as error:
                raise InputError(f"text {i}: {error}") from None
        return self.predict_prepared(prepared)

    def prepare(
        self, text: str, pair: str | None = None, *, truncate: bool | None = None, **options: Any
    ) -> Prepared:
        """A text as tokens, for `predict_prepared`: what is wrong with it is found before."""
        return prepare(self._reader(), text, pair, truncate, options)

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[Any]:
        """What `predict` gives, for each text; all of them run as one batch, but texts that are
        continued: these one after another."""
        if self.artifact.manifest.get("task") == GENERATION:
            return ["".join(self.stream_prepared(p)) for p in prepared]
        reader = self._reader()
        rows = iter(self._many([reader.arrays(w) for p in prepared for w in p.windows]))
        results = []
        for p in prepared:
            outputs = [{k: v[0] for k, v in next(rows).items()} for _ in p.windows]
            results.append(tell(reader, p, outputs))
        return results

    def encode(self, text: str, pair: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and type ids of a text, int32 [s], cut at the model's maximum length."""
        encoded = self._reader().encode(text, pair)[0]
        return np.array(encoded.ids, np.int32), np.array(encoded.type_ids, np.int32)

    def _reader(self) -> Reader:
        if self._texts is None:
            self._texts = Reader(self.artifact)
        return self._texts

    def _bind_masked(
        self, inputs: Sequence[Any], named: dict[str, Any]
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        """The inputs, and the mask in their shape, if one is given."""
        mask = named.pop("attention_mask", None)
        if len(inputs) == len(self._inputs) + 1:
            if mask is not None:
                raise InputError("attention_mask is given twice")
            *inputs, mask = inputs
        arrays = self._bind(inputs, named)
        if mask is None:
            return arrays, None
        mask = np.asarray(mask)
        if mask.dtype.kind not in "iub" or mask.shape != arrays[0].shape:
            raise InputError(
                f"attention_mask is {mask.dtype} of shape {list(mask.shape)}; give 0 and 1 "
                f"in the shape of input_ids, {list(arrays[0].shape)}"
            )
        if mask.min() < 0 or mask.max() > 1:
            bad = int(mask[(mask < 0) | (mask > 1)][0])
            raise InputError(f"attention_mask holds {bad}; give 1 for tokens and 0 for padding")
        return arrays, mask

    def _span(self, index: int, mask: np.ndarray | None, length: int) -> slice:
        """Where a text's tokens are, between its padding."""
        if mask is None:
            return slice(0, length)
        ones = np.flatnonzero(mask)
        if not len(ones):
            raise InputError(f"text {index}: attention_mask is 0 everywhere; leave the text out")
        start, stop = int(ones[0]), int(ones[-1]) + 1
        if len(ones) != stop - start:
            hole = start + int(np.flatnonzero(mask[start:stop] == 0)[0])
            raise InputError(
                f"text {index}: attention_mask has a 0 at {hole}, between ones; "
                "take those tokens out of input_ids"
            )
        if start and not self.artifact.manifest.get("left_padding", False):
            raise InputError(
                f"text {index}: attention_mask has padding at the start, and this model counts "
                "positions from there; pad at the end"
            )
        return slice(start, stop)

    def _bind(self, inputs: Sequence[Any], named: dict[str, Any]) -> list[np.ndarray]:
        names = [i["name"] for i in self._inputs]
        if len(inputs) > len(names):
            raise InputError(f"{len(inputs)} inputs given; the model takes {', '.join(names)}")
        given = dict(zip(names, inputs, strict=False))
        for name, value in named.items():
            if name not in names or name in given:
                raise InputError(f"input '{name}' is unknown or given twice; "
                                 f"the model takes {', '.join(names)}")  # fmt: skip
            given[name] = value
        if "input_ids" not in given:
            raise InputError("input_ids is missing")
        first = _ids("input_ids", given["input_ids"])
        arrays = [_ids(n, given[n]) if given.get(n) is not None else np.zeros_like(first)
                  for n in names]  # fmt: skip
        for name, array in zip(names, arrays, strict=True):
            if array.shape != first.shape:
                raise InputError(
                    f"{name} has shape {list(array.shape)}, input_ids {list(first.shape)}; "
                    "give both the same shape"
                )
        return arrays

    def _bind_text(self, text: Any) -> list[np.ndarray]:
        """The inputs of one text of a batch, each [s]."""
        if isinstance(text, Mapping):
            if "attention_mask" in text:
                raise InputError("attention_mask is not taken here; give texts without padding")
            arrays = self._bind((), dict(text))
        elif isinstance(text, (list, tuple)) and text and hasattr(text[0], "__len__"):
            arrays = self._bind(text, {})
        else:
            arrays = self._bind((text,), {})
        if arrays[0].ndim != 1:
            raise InputError(f"input_ids has shape {list(arrays[0].shape)}; give [s]")
        return arrays

    def _checked(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One text's inputs as the library reads them, if it can run them."""
        length = len(arrays[0])
        if not 1 <= length <= self.artifact.max_length:
            raise InputError(f"length {length} is outside 1..{self.artifact.max_length}")
        for slot, array in zip(self._inputs, arrays, strict=True):
            limit = slot["limit"] or 2**31
            if array.min() < 0 or array.max() >= limit:
                bad = int(array[(array < 0) | (array >= limit)][0])
                raise InputError(f"{slot['name']} holds {bad}; ids must be 0 to {limit - 1}")
        return [np.ascontiguousarray(a, np.int32) for a in arrays]

    def _room(self, length: int) -> dict[str, np.ndarray]:
        """Outputs of a text of `length` tokens, by name, to be written by the library."""
        out = {o["name"]: np.empty(_shape(o, length), np.float32) for o in self._outputs}
        for i, array in enumerate(out.values()):
            if self._library.canao_output_size(i, length) != array.size:
                raise InputError(
                    f"{self.artifact.path}: library and manifest differ; compile again"
                )
        return out

    def _one(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        ids = self._checked(arrays)
        length = len(ids[0])
        out = self._room(length)
        sources, targets = _row(ids), _row(list(out.values()))
        self._locked(self._library.canao_run, sources, length, targets)
        self._text_length = 0
        return out

    def _many(self, bound: Sequence[Sequence[np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Every output of each text, a batch dimension of 1 first; nothing runs unless all may."""
        texts: list[list[np.ndarray]] = []
        results: list[dict[str, np.ndarray]] = []
        for i, arrays in enumerate(bound):
            try:
                texts.append(self._checked(arrays))
                results.append(self._room(len(texts[-1][0])))
            except InputError as error:
                raise InputError(f"text {i}: {error}") from None
        if texts:
            function = getattr(self._library, "canao_run_batch", None)
            if function is None:
                raise DeviceError(
                    f"{self.artifact.path}: the library is older than batches; compile again"
                )
            lengths = np.array([len(ids[0]) for ids in texts], np.int32)
            sources, targets = _Table(texts), _Table([list(r.values()) for r in results])
            self._locked(function, len(texts), sources.address, _address(lengths), targets.address)
            self._text_length = 0
        return results

    def _locked(self, function: Any, *arguments: Any) -> None:
        with self._lock:
            if not self._close.alive:
                raise InputError("the model is closed; load it again")
            self._check(function(self._handle, *arguments))

    def _check(self, status: int) -> None:
        if status != _STATUS_OK:
            message = self._library.canao_message(status).decode()
            raise DeviceError(f"{self.artifact.path}: {message}")


class _Table:
    """Arrays of texts as C takes them, `T *const *const *`: the address of each text's row of
    addresses. `rows` are all of one length; they and the table must outlive the call."""

    def __init__(self, rows: Sequence[Sequence[np.ndarray]]) -> None:
        self._cells = np.array([[a.ctypes.data for a in row] for row in rows], np.uintp)
        starts = np.arange(len(rows), dtype=np.uintp) * np.uintp(self._cells.strides[0])
        self._rows = starts + np.uintp(self._cells.ctypes.data)

    @property
    def address(self) -> ctypes.c_void_p:
        return _address(self._rows)


def _row(arrays: Sequence[np.ndarray]) -> Any:
    """Addresses of one text's arrays, as C takes them."""
    return (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def require_runnable(artifact: Artifact, host: Target) -> None:
    """DeviceError unless this machine can run the artifact's library."""
    built = artifact.manifest["target"]
    machine = host.triple.partition("-")[0]
    same = str(built.get("triple", "")).startswith(machine)
    isa = built.get("isa")
    wide = isa in _ISA_ORDER and host.isa in _ISA_ORDER
    if same and wide:
        same = _ISA_ORDER.index(isa) <= _ISA_ORDER.index(host.isa)
    if not same:
        raise DeviceError(
            f"{artifact.path}: built for {built.get('name')} ({isa}), this machine is {machine} "
            f"({host.isa}); compile with --target host"
        )


def _library(path: Path) -> ctypes.CDLL:
    try:
        # The loader takes a path that it has seen for the library it loaded from there, though
        # the model may have been compiled anew since. A link of its own makes it look.
        with tempfile.TemporaryDirectory(prefix="canao-") as folder:
            link = Path(folder) / path.name
            link.symlink_to(path.resolve())
            library = ctypes.CDLL(str(link))
        library.canao_message.restype = ctypes.c_char_p
        library.canao_output_size.restype = ctypes.c_int64
        library.canao_close.argtypes = [ctypes.c_void_p]
        library.canao_close.restype = None
    except (OSError, AttributeError) as error:
        raise DeviceError(f"{path}: cannot be loaded ({error}); compile the model again") from None
    return library


def _ids(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or array.size == 0:
        raise InputError(
            f"{name} is {array.dtype} of shape {list(array.shape)}; "
            "give whole numbers of shape [s] or [batch, s]"
        )
    return array


def _padded(
    output: dict[str, Any], array: np.ndarray, span: slice, length: int
) -> np.ndarray:
    """A text's output as it would be with its padding: 0 there in every dimension that has it."""
    if span == slice(0, length):
        return array
    places = tuple(slice(None) if isinstance(d, int) else span for d in output["shape"])
    if any(d not in ("s", 1) for d in output["shape"] if not isinstance(d, int)):
        raise InputError(f"output {output['name']} has no padding; give texts without it")
    whole = np.zeros(_shape(output, length), np.float32)
    whole[places] = array
    return whole


def _shape(output: dict[str, Any], length: int) -> tuple[int, ...]:
    """Concrete shape; dimensions are ints or polynomials in s as the manifest writes them."""
    sizes = []
    for d in output["shape"]:
        if isinstance(d, int):
            sizes.append(d)
            continue
        total = 0
        for term in str(d).split("+"):
            value = 1
            for factor in term.strip().split("*"):
                if factor != "s" and not factor.isdigit():
                    raise InputError(f"manifest: output shape {output['shape']} is not readable")
                value *= length if factor == "s" else int(factor)
            total += value
        sizes.append(total)
    return tuple(sizes)
