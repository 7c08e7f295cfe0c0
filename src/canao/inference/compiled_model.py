"""CompiledModel: an artifact loaded into this process. Token ids in, arrays out; or texts in,
results out (text_model.py)."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.errors import DeviceError, InputError
from canao.graph.dtypes import F32
from canao.inference.binding import ids_of, output_shape, padded
from canao.inference.generation import length_limit, pieces, settings_of, tokens
from canao.inference.library import (
    PointerTable,
    address_of,
    addresses,
    load_library,
    require_interface,
    require_runnable,
)
from canao.inference.tasks import GENERATION, Prepared, as_logits
from canao.inference.text_model import TextModel
from canao.target import get_target

_STATUS_OK, _STATUS_BUSY = 0, 8


_open_models: weakref.WeakSet[CompiledModel] = weakref.WeakSet()


class CompiledModel(TextModel):
    """A compiled library, its weights mapped. Calls from several threads take turns.

    A forked process may go on with the models of its parent, each with threads of its own. Raises
    DeviceError if the library cannot run on this machine, InputError if it is damaged.
    """

    def __init__(
        self, artifact: Artifact | str | Path, threads: int = 1, cores: Sequence[int] = ()
    ) -> None:
        super().__init__(artifact if isinstance(artifact, Artifact) else Artifact.load(artifact))
        check_threads(threads, cores)
        if self.artifact.on_gpu and (threads != 1 or cores):
            raise InputError(
                f"{self.artifact.path}: its kernels run on a GPU; give one thread and no cores"
            )
        self.threads = threads
        require_runnable(self.artifact, get_target())
        self._lock = threading.Lock()
        self._sequence_length = 0
        self._library = load_library(self.artifact.library)
        require_interface(self.artifact, self._library)
        handle = ctypes.c_void_p()
        pinned = (ctypes.c_int * threads)(*cores) if cores else None
        path = os.fsencode(self.artifact.weights)
        self._check(self._library.canao_open(path, threads, pinned, ctypes.byref(handle)))
        self._handle = handle
        self._close = weakref.finalize(self, self._library.canao_close, handle)
        _open_models.add(self)

    @property
    def isa(self) -> str:
        """The instruction set of the kernels that run on this processor."""
        return self._library.canao_isa().decode()

    def close(self) -> None:
        """Unmap the weights and end the threads. A closed model cannot be called again."""
        with self._lock:
            self._close()

    def __call__(self, *inputs: Any, **named: Any) -> np.ndarray:
        """The first output (logits, or the last hidden state) for ids of shape [s] or [batch, s].

        Called as `compiled(input_ids, token_type_ids=None, attention_mask=None)`: inputs in the
        order of the manifest, then the mask, or by name. token_type_ids may be left out and are
        then 0. Threads share out the sequences of a batch; `run_batch` takes
        sequences of several lengths without padding. InputError names what is wrong.
        """
        return next(iter(self.run(*inputs, **named).values()))

    def run(self, *inputs: Any, **named: Any) -> dict[str, np.ndarray]:
        """Every output by name; a batch dimension in the ids is one in the outputs.

        attention_mask holds a 1 for each token and a 0 for padding. Each sequence gives what it
        gives alone, as in Transformers for a model that attends to no padding; outputs that have a
        value for each token are 0 at the padding. Padding at the start is refused where the
        model would count positions from it, and zeros between ones always.
        """
        arrays, mask = self._binding.bind_masked(inputs, named)
        if arrays[0].ndim == 1 and mask is None:
            return {k: v[0] for k, v in self._one(arrays).items()}
        batch = [np.atleast_2d(a) for a in arrays]
        masks = [None] * len(batch[0]) if mask is None else np.atleast_2d(mask)
        spans = [self._binding.span(i, row, batch[0].shape[1]) for i, row in enumerate(masks)]
        rows = self._many([[a[i, span] for a in batch] for i, span in enumerate(spans)])
        length = batch[0].shape[1]
        out = {
            o["name"]: np.concatenate(
                [padded(o, row[o["name"]], span, length)
                 for row, span in zip(rows, spans, strict=True)]
            )
            for o in self._outputs
        }  # fmt: skip
        return out if arrays[0].ndim == 2 else {k: v[0] for k, v in out.items()}

    def time(self, length: int, runs: int = 256, percentile: float = 90.0) -> float:
        """Milliseconds that a sequence of `length` tokens takes here: that percentile of `runs`
        runs of a made-up one, measured within the library. A decoder's sequence is empty after it.

        InputError for a length, a number of runs or a percentile out of range.
        """
        check_time(length, runs, percentile)
        if length > self.artifact.max_length:
            raise InputError(f"length {length} is outside 1 to {self.artifact.max_length}")
        function = getattr(self._library, "canao_time", None)
        if function is None:
            raise DeviceError(f"{self.artifact.path}: the library is older than self-checks; "
                              "compile again")  # fmt: skip
        found = ctypes.c_double()
        self._locked(function, length, runs, ctypes.c_double(percentile), ctypes.byref(found))
        self._sequence_length = 0
        return found.value

    @property
    def sequence_length(self) -> int:
        """Tokens that `extend` has appended so far, whose keys and values the library keeps."""
        return self._sequence_length

    def extend(self, *inputs: Any, wanted: int = 1, **named: Any) -> dict[str, np.ndarray]:
        """Append tokens, ids of shape [s], to the sequence that the model holds.

        Returns every output by name, with rows [wanted, ...] for the last of these tokens only.
        InputError unless the model is a decoder. After `run`, `run_batch` and a call of the model
        the sequence is empty.
        """
        self._require_decoder()
        arrays = self._binding.bind(inputs, named)
        if arrays[0].ndim != 1:
            raise InputError(f"input_ids has shape {list(arrays[0].shape)}; give [s]")
        ids = self._binding.checked(arrays)
        length = len(ids[0])
        if not 0 <= wanted <= length:
            raise InputError(f"outputs of {wanted} tokens are wanted; {length} are given")
        if self._sequence_length + length > self.artifact.max_length:
            raise InputError(
                f"{length} tokens after {self._sequence_length} are over the model's maximum, "
                f"{self.artifact.max_length}"
            )
        out = self._empty_outputs(wanted) if wanted else {}
        sources, targets = addresses(ids), addresses(list(out.values()))
        self._locked(self._library.canao_extend, sources, length, wanted, targets)
        self._sequence_length += length
        return {name: array[0] for name, array in out.items()}

    def reset(self, kept: int = 0) -> None:
        """Forget what `extend` has appended, except the first `kept` tokens."""
        self._require_decoder()
        if not 0 <= kept <= self._sequence_length:
            raise InputError(
                f"{kept} tokens cannot be kept; the sequence has {self._sequence_length}"
            )
        self._locked(self._library.canao_reset, kept)
        self._sequence_length = kept

    def stream(
        self, prompt: str | Any, max_new_tokens: int | None = None, *,
        temperature: float | None = None, top_k: int | None = None, top_p: float | None = None,
        seed: int | None = None, stop: Sequence[int] | None = None, **settings: Any,
    ) -> Iterator[int]:  # fmt: skip
        """New tokens after the prompt, a text or ids of shape [s], as they are computed.

        Settings have the names and meanings of Transformers' generate: do_sample,
        repetition_penalty and so on (docs/generation.md). Those that are None are as the model's
        generation_config.json says, else as there. A temperature draws tokens, with `seed` the
        same ones again; 0 takes the most probable. It ends after a token of `stop` (default: the
        model's own end tokens), after `max_new_tokens` (default: what the model's files say, else
        64), or where the model's maximum length is reached.
        """
        self._require_decoder()
        manifest = self.artifact.manifest
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k,
                 "top_p": top_p, **settings}  # fmt: skip
        chosen = settings_of(manifest.get("generation") or {}, given)
        ids = self._prompt(prompt)
        ends = tuple(manifest.get("stop_tokens", ()) if stop is None else stop)
        count = length_limit(chosen, len(ids), self.artifact.max_length)
        decode = self._decode if chosen["stop_strings"] and self._has_tokenizer else None
        written = tokens(self._next_logits, ids, count, chosen, ends, seed, decode)
        self.reset()
        return written

    def generate(
        self, prompt: str | Any, max_new_tokens: int | None = None, **options: Any
    ) -> np.ndarray:
        """All new tokens after the prompt, int32 [n]; options as for `stream`."""
        return np.array(list(self.stream(prompt, max_new_tokens, **options)), np.int32)

    def stream_text(
        self, prompt: str | Any, max_new_tokens: int | None = None, **options: Any
    ) -> Iterator[str]:
        """The text after the prompt, piece by piece; options as for `stream`."""
        source, tokenizer = self.stream(prompt, max_new_tokens, **options), self._reader().tokenizer
        return pieces(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), source)

    def stream_prepared(self, prepared: Prepared) -> Iterator[str]:
        """As `stream_text`, for a prompt that `prepare` has tokenised, with its options."""
        return self.stream_text(prepared.windows[0].ids, **prepared.options)

    def _next_logits(self, new: np.ndarray) -> np.ndarray:
        """The logits after tokens that are appended to the sequence."""
        last = next(iter(self.extend(new).values()))[-1]
        return as_logits(last, self.artifact.manifest.get("activation"))

    @property
    def _has_tokenizer(self) -> bool:
        return (self.artifact.path / "tokenizer.json").is_file()

    def _decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, with the special ones."""
        return str(self._reader().tokenizer.decode(list(ids), skip_special_tokens=False))

    def _require_decoder(self) -> None:
        if not self.artifact.resumes:
            raise InputError(
                f"{self.artifact.path}: the model does not continue a sequence; "
                "compile a decoder with causal attention"
            )

    def _prompt(self, prompt: str | Any) -> np.ndarray:
        """The ids of a prompt, none of them truncated."""
        if not isinstance(prompt, str):
            ids = ids_of("prompt", prompt)
            if ids.ndim == 2 and len(ids) == 1:
                ids = ids[0]
        else:
            ids = np.array(self._reader().whole(prompt).ids, np.int32)
        if ids.ndim != 1 or not 1 <= len(ids) <= self.artifact.max_length:
            raise InputError(
                f"the prompt has shape {list(ids.shape)}; give 1 to "
                f"{self.artifact.max_length} tokens of one sequence"
            )
        return self._binding.checked([ids])[0]

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[Any]:
        """What `predict` gives for each text. All run as one batch, except in text generation,
        which takes one after the other."""
        if self.artifact.manifest.get("task") == GENERATION:
            return ["".join(self.stream_prepared(p)) for p in prepared]
        return super().predict_prepared(prepared)

    def _empty_outputs(self, length: int) -> dict[str, np.ndarray]:
        """Empty arrays by name, into which the library writes the outputs for `length` tokens."""
        out = {o["name"]: np.empty(output_shape(o, length), F32.numpy) for o in self._outputs}
        for i, array in enumerate(out.values()):
            if self._library.canao_output_size(i, length) != array.size:
                raise InputError(
                    f"{self.artifact.path}: library and manifest differ; compile again"
                )
        return out

    def _one(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        ids = self._binding.checked(arrays)
        length = len(ids[0])
        out = self._empty_outputs(length)
        sources, targets = addresses(ids), addresses(list(out.values()))
        self._locked(self._library.canao_run, sources, length, targets)
        self._sequence_length = 0
        return out

    def _run_checked(
        self, sequences: Sequence[Sequence[np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        results = [self._empty_outputs(len(ids[0])) for ids in sequences]
        function = getattr(self._library, "canao_run_batch", None)
        if function is None:
            raise DeviceError(
                f"{self.artifact.path}: the library is older than batches; compile again"
            )
        lengths = np.array([len(ids[0]) for ids in sequences], np.int32)
        sources = PointerTable(sequences)
        targets = PointerTable([list(row.values()) for row in results])
        counts = address_of(lengths)
        self._locked(function, len(sequences), sources.address, counts, targets.address)
        self._sequence_length = 0
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


def check_time(length: int, runs: int, percentile: float) -> None:
    """InputError unless these can be asked of `CompiledModel.time`, whatever the model."""
    if not _is_whole(length) or length < 1:
        raise InputError(f"length {length!r} cannot be used; give tokens, from 1")
    if not _is_whole(runs) or not 1 <= runs <= 1_000_000:
        raise InputError(f"runs {runs!r} cannot be used; give 1 to 1,000,000")
    if not isinstance(percentile, int | float) or not 0 < percentile <= 100:
        raise InputError(f"percentile {percentile!r} cannot be used; give over 0, up to 100")


def check_threads(threads: int, cores: Sequence[int]) -> None:
    """InputError unless these are a number of threads, and a core for each or none."""
    if not _is_whole(threads) or not 1 <= threads <= 64:
        raise InputError(f"threads is {threads}; give 1 to 64")
    if cores and len(cores) != threads:
        raise InputError(f"{len(cores)} cores named for {threads} threads; name one for each")
    for core in cores:
        # More than a C int holds would be cut to a core that nobody named.
        if not _is_whole(core) or not 0 <= core < 2**31:
            raise InputError(f"core {core} does not exist; cores are counted from 0")


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _renew_locks() -> None:
    """In a forked process: a lock that another thread held is held by nobody here."""
    for model in list(_open_models):
        model._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)
