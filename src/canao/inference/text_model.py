"""A compiled model as texts see it: texts in, results out, wherever its library runs.

A text is a string that a person wrote; a sequence is the token ids that the library runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from canao.artifact.directory import Artifact
from canao.errors import InputError
from canao.inference.binding import Binding
from canao.inference.tasks import Prepared, Reader, interpret, prepare

Model = TypeVar("Model", bound="TextModel")


class TextModel(ABC):
    """The texts of a model's task, for a library that runs in some place."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._binding = Binding(artifact)
        self._outputs = artifact.manifest["outputs"]
        self._text_reader: Reader | None = None

    @abstractmethod
    def close(self) -> None:
        """End it. A closed model cannot be called again."""

    @abstractmethod
    def _run_checked(
        self, sequences: Sequence[Sequence[np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        """Every output of each sequence by name, with a first dimension of 1. Their ids are what
        the library can run, and there is one at least."""

    def __enter__(self: Model) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run_batch(self, batch: Sequence[Any]) -> list[np.ndarray]:
        """What `__call__` gives for each sequence of a batch, in order; lengths may differ.

        A sequence is its ids alone, of shape [s]; or all inputs in the order of the manifest, each
        [s]; or a mapping from names to them: what `__call__` takes, as one value. The result is
        the first output of each sequence, without a batch dimension, and the same to the bit as
        from one call for each. Threads share out the sequences. Nothing runs unless all are right:
        InputError says which is not and why; DeviceError if the library cannot run batches.
        """
        bound = []
        for i, sequence in enumerate(batch):
            try:
                bound.append(self._binding.bind_sequence(sequence))
            except InputError as error:
                raise InputError(f"sequence {i}: {error}") from None
        return [next(iter(row.values()))[0] for row in self._many(bound)]

    def predict(
        self, text: str | Sequence[str], pair: str | Sequence[str] | None = None, *,
        context: str | Sequence[str] | None = None, truncate: bool | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """What the model's task says of a text, or of each of a list of texts.

            text-classification    Prediction        top, threshold, prompt_name; a pair if there
                                                     are two texts
            text-regression        Prediction        prompt_name
            token-classification   list of Entity    aggregate, ignore_labels
            question-answering     list of Answer    top, max_answer_tokens, null_threshold;
                                                     context or pair
            fill-mask              lists of Filling, one for each mask    top
            feature-extraction     array [s, width]  pooling (then [width]), normalize
            sentence-embedding     array [width]     prompt_name
            text-generation        text after it     max_new_tokens and the options of `stream`

        A text of more tokens than the model takes is an InputError, or is truncated if `truncate`
        is true. A long context is read in windows, and so is a long text whose tokens are
        classified. Sentence embeddings are truncated as in Sentence-Transformers.
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
        """A text as tokens, for `predict_prepared`; InputError says what is wrong with the text."""
        return prepare(self._reader(), text, pair, truncate, options)

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[Any]:
        """What `predict` gives for each text. All run as one batch."""
        reader = self._reader()
        rows = iter(self._many([reader.arrays(w, p.skip) for p in prepared for w in p.windows]))
        results = []
        for p in prepared:
            outputs = [{k: v[0] for k, v in next(rows).items()} for _ in p.windows]
            results.append(interpret(reader, p, outputs))
        return results

    def encode(self, text: str, pair: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and type ids of a text, int32 [s], truncated to the model's maximum length."""
        encoded = self._reader().encode(text, pair)[0]
        return np.array(encoded.ids, np.int32), np.array(encoded.type_ids, np.int32)

    def tokens_of(self, text: str, pair: str | None = None) -> int:
        """How many tokens a text has, however long it is."""
        return len(self._reader().whole(text, pair).ids)

    def arrays(self, text: str, pair: str | None = None) -> list[np.ndarray]:
        """What the library is given for a text, truncated as by `encode`: an array [s] for each
        input, in the order of the manifest."""
        reader = self._reader()
        return reader.arrays(reader.encode(text, pair)[0])

    def _reader(self) -> Reader:
        if self._text_reader is None:
            self._text_reader = Reader(self.artifact)
        return self._text_reader

    def _many(self, bound: Sequence[Sequence[np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Every output of each sequence, with a first dimension of 1; all are checked first."""
        sequences: list[list[np.ndarray]] = []
        for i, arrays in enumerate(bound):
            try:
                sequences.append(self._binding.checked(arrays))
            except InputError as error:
                raise InputError(f"sequence {i}: {error}") from None
        return self._run_checked(sequences) if sequences else []
