"""What a teacher makes of the examples that its students are trained on."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.train.distillation.signals import Seen, Signal, observe, width_of
from canao.train.engine.batches import Batch, Encoded, evaluation_batches
from canao.train.engine.compute import device_of
from canao.train.engine.loop import Progress

_BATCH = 64
_LIMIT = 1 << 30
_HALF = 65504.0  # the largest number of half precision


class TeacherTargets:
    """The teacher's logits and signals for every example of `data`.

    What was prepared is computed once and then looked up. Signals are kept in half precision, as
    many as need at most `limit` bytes in all; for others the teacher runs again for each batch.
    They are in the memory of the CPU, and go to the teacher's device with their batch.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        data: Encoded,
        limit: int = _LIMIT,
    ) -> None:
        self.teacher, self.device = teacher.eval(), device_of(teacher)
        self.data, self.limit = data, limit
        self.logits: Tensor | None = None
        self.held: dict[Signal, Tensor] = {}
        self.starts = [0]
        for ids in data.ids:
            self.starts.append(self.starts[-1] + len(ids))

    def prepare(self, wanted: Collection[Signal], progress: Progress) -> None:
        """Compute logits, and signals that are wanted and not held; where memory is short, those
        held that are not wanted give way."""
        new = sorted(set(wanted) - self.held.keys())
        if sum(map(self._size, (*self.held, *new))) > self.limit:
            self.held = {s: kept for s, kept in self.held.items() if s in wanted}
        room, made = self.limit - sum(map(self._size, self.held)), {}
        for signal in new:
            if self._size(signal) <= room:
                room -= self._size(signal)
                width = width_of(self.teacher, signal)
                made[signal] = torch.zeros(self.starts[-1], width, dtype=torch.half)
        if self.logits is not None and not made:
            return
        logits = torch.zeros(len(self.data.labels), self.teacher.config.num_labels)
        total = math.ceil(len(self.data) / _BATCH)
        batches = evaluation_batches(self.data, _BATCH, self.device)
        for done, batch in enumerate(batches, start=1):
            with torch.inference_mode():
                seen = observe(self.teacher, batch, made)
                logits[self.data.units(batch.index)] = seen.logits.float().cpu()
                self._keep(batch, seen, made)
            progress(done, total, "teacher targets")
        self.logits = logits
        self.held |= made

    def of(self, batch: Batch, wanted: Collection[Signal]) -> Seen:
        """Logits [units, outputs] and the signals [examples, tokens, width], all float32; after
        `prepare`."""
        assert self.logits is not None
        lacking = [s for s in wanted if s not in self.held]
        signals = {s: self._padded(batch, s) for s in wanted if s in self.held}
        if lacking:
            with torch.no_grad():
                signals |= observe(self.teacher, batch, lacking).float().signals
        return Seen(self.logits[self.data.units(batch.index)].to(self.device), signals)

    def _size(self, signal: Signal) -> int:
        """Bytes that a signal takes for all examples."""
        return self.starts[-1] * width_of(self.teacher, signal) * 2

    def _keep(self, batch: Batch, seen: Seen, into: dict[Signal, Tensor]) -> None:
        for signal, kept in into.items():
            vectors = seen.signals[signal].clamp(-_HALF, _HALF).to("cpu", torch.half)
            for row, i in enumerate(batch.index):
                start, end = self.starts[i], self.starts[i + 1]
                kept[start:end] = vectors[row, : end - start]

    def _padded(self, batch: Batch, signal: Signal) -> Tensor:
        held = self.held[signal]
        padded = torch.zeros(*batch.ids.shape, held.shape[1], dtype=torch.half)
        for row, i in enumerate(batch.index):
            start, end = self.starts[i], self.starts[i + 1]
            padded[row, : end - start] = held[start:end]
        return padded.to(self.device).float()
