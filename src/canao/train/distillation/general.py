"""General distillation: a student learns from plain text what its teacher makes of each token.

    RUN/model/             the student, a Hugging Face directory of an encoder without a head
    RUN/curve.jsonl        the loss against the tokens seen, a row for every 50 steps
    RUN/model.json         what the student depends on; the same command trains nothing again
    RUN/checkpoint.safetensors   what a killed run resumes from

No label is needed, so the student is good for any task that is fine-tuned afterwards, as a teacher
of `canao search`. It may have any architecture that is no wider than the teacher: with as many
layers at most, it starts from the teacher's weights (inheritance/inherit.py); a deeper one from the
teacher's embeddings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from canao.artifact.files import file_digest, write_whole
from canao.artifact.reading import parse_json
from canao.errors import InputError
from canao.model import hf
from canao.model.arch import Arch
from canao.model.directory.checkpoint import content
from canao.model.inventory.inventory import Inventory
from canao.train.data import NO_CLASS
from canao.train.distillation.distill import Objective
from canao.train.distillation.general_options import GeneralOptions
from canao.train.distillation.signals import Pairing
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine.batches import Batch, Encoded, training_order
from canao.train.engine.compute import computing, training_device
from canao.train.engine.loop import Loop, TrainingSchedule
from canao.train.engine.storing import storing
from canao.train.inheritance.contributions import contributions
from canao.train.inheritance.inherit import copy_embeddings, inherit, keep
from canao.train.options import RELATION_HEADS, TrainProgress
from canao.train.reading.tables import is_plain, read_lines
from canao.train.records import digest, read_record, write_record

_ROW_STEPS = 50
_CHUNK = 1024  # lines given to the tokenizer at a time


class Row(msgspec.Struct):
    """A row of curve.jsonl: after so many steps and tokens, the mean loss of the steps since the
    row before."""

    step: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class Distilled:
    """A student, and the rows of its curve."""

    arch: Arch
    model_dir: Path
    curve: tuple[Row, ...]


def distil_text(
    teacher: Path, text: Path, arch: Arch, run_dir: Path, options: GeneralOptions,
    progress: TrainProgress, ignored: Collection[str] = (),
) -> Distilled:  # fmt: skip
    """Distil a student of `arch` from the teacher in a directory on the lines of a text file.

    Called again with the same `run_dir`, it goes on where it stopped. InputError for a teacher or a
    text that cannot be used, an architecture that is wider than the teacher, and a directory that
    holds another student.
    """
    inventory = Inventory(teacher, ignored)
    config = hf.load_config(teacher, inventory)
    tokenizer = hf.load_tokenizer(teacher, inventory)
    if not text.is_file():
        raise InputError(f"{text}: no such file; give a .txt file, plain or .gz, one text a line")
    if not is_plain(text):
        raise InputError(f"{text}: not a .txt file, plain or .gz; give one text a line")
    own, takes = hf.arch_of(config), hf.takes(config)
    if arch.hidden > own.hidden or arch.width > own.width:
        heads = "" if own.width == own.hidden else f", and heads of {own.width} in all"
        raise InputError(
            f"architecture {arch}: wider than the teacher, which has {own.hidden}{heads}; give a "
            "narrower one"
        )
    if options.length > takes.tokens:
        raise InputError(
            f"{teacher}: at most {takes.tokens} tokens, --length is {options.length}; give a "
            "smaller one"
        )
    key = digest(content(teacher), file_digest(text), str(arch), options.facts())
    model_dir, record = run_dir / "model", run_dir / "model.json"
    curve = _Curve(run_dir / "curve.jsonl")
    if read_record(record, key, model_dir) is not None:
        return Distilled(arch, model_dir, tuple(curve.rows))
    if record.exists():
        raise InputError(
            f"{run_dir}: holds another student, or one that was changed; choose another --out"
        )
    device = training_device(options.device)
    with computing(device, options.threads):
        data = pieces(tokenizer, read_lines(text), options.length, options.tokens, takes)
        progress("text", 1, 1, f"{len(data)} pieces, {sum(map(len, data.ids))} tokens")
        torch.manual_seed(options.seed)
        model = hf.load_classifier(teacher, (), inventory).to(device)
        student, pairing = start(model, arch, data)
        _train(student, model, pairing, data, options, curve, run_dir, key, progress)
    with storing(model_dir):
        hf.save_model(hf.encoder_of(student), tokenizer, model_dir)
    write_record(record, key, None, model_dir)
    (run_dir / "checkpoint.safetensors").unlink(missing_ok=True)
    return Distilled(arch, model_dir, tuple(curve.rows))


def pieces(
    tokenizer: PreTrainedTokenizerBase, lines: Sequence[str], length: int, most: int,
    takes: hf.Takes | None = None,
) -> Encoded:  # fmt: skip
    """Lines as pieces of at most `length` tokens, special ones included, until there are `most`
    tokens in all. InputError if nothing is left of them. `takes` is what models take; None: token
    types, and any length."""
    length = min(length, tokenizer.model_max_length)
    found: list[np.ndarray] = []
    total = 0
    for ids in _cut(tokenizer, lines, length):
        found.append(ids)
        total += len(ids)
        if total >= most:
            break
    if not found:
        raise InputError("the text has no tokens; give one with words that the tokenizer knows")
    types = tuple(np.zeros(len(ids), dtype=np.int8) for ids in found)
    labels = np.full(len(found), NO_CLASS)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)  # hf.load_tokenizer sees to it
    if takes is None:
        return Encoded(tuple(found), types, labels, pad)
    return Encoded(tuple(found), types, labels, pad, typed=takes.types > 0, most=takes.tokens)


def _cut(
    tokenizer: PreTrainedTokenizerBase, lines: Sequence[str], length: int
) -> Iterator[np.ndarray]:
    bare = len(tokenizer("")["input_ids"])  # special tokens of an empty text
    for start_at in range(0, len(lines), _CHUNK):
        out = tokenizer(
            list(lines[start_at : start_at + _CHUNK]), truncation=True, max_length=length,
            return_overflowing_tokens=True, return_attention_mask=False,
        )  # fmt: skip
        for row in out["input_ids"]:
            if len(row) > bare:
                yield np.asarray(row, dtype=np.int32)


def start(
    teacher: PreTrainedModel, arch: Arch, data: Encoded
) -> tuple[PreTrainedModel, Pairing]:
    """A student before it is trained, and what of it is compared with what of the teacher."""
    own = hf.arch_of(teacher.config)
    importance = contributions(teacher, data)
    if arch.layers <= own.layers:
        kept = keep(own, arch, importance)
        student, layers, hidden = inherit(teacher, arch, kept, data), kept.layers, kept.hidden
    else:
        hidden = importance.hidden.argsort(descending=True, stable=True)[: arch.hidden]
        hidden = hidden.sort().values
        student = hf.build_classifier(hf.student_config(teacher.config, arch))
        student = student.to(next(teacher.parameters()).device)
        old, new = hf.parts_of(teacher), hf.parts_of(student)
        with torch.no_grad():
            copy_embeddings(old.embeddings, new.embeddings, hidden)
        count, most = arch.layers, own.layers
        layers = tuple(-(-(i + 1) * most // count) - 1 for i in range(count))
    return student, Pairing.of(student, teacher, layers, hidden, RELATION_HEADS)


def _train(
    student: PreTrainedModel, teacher: PreTrainedModel, pairing: Pairing, data: Encoded,
    options: GeneralOptions, curve: _Curve, run_dir: Path, key: str, progress: TrainProgress,
) -> None:  # fmt: skip
    batches = -(-len(data) // options.batch)
    steps = max(1, round(options.tokens / sum(map(len, data.ids)) * batches))
    schedule = TrainingSchedule(
        steps=steps, batch=options.batch, lr=options.lr, seed=options.seed, dtype=options.dtype
    )
    targets = TeacherTargets(teacher, data, limit=0)
    targets.logits = torch.zeros(len(data), 1)  # of a head that nobody trained
    objective = Objective(student, targets, pairing, options.weights, steps)

    def loss(batch: Batch) -> Tensor:
        value = objective(batch, loop.state.step)
        lost = float(value.detach())
        if math.isfinite(lost):  # else the loop goes back, and has no such step
            curve.saw(int(batch.padding_mask.sum()), lost)
        return value

    def told(done: int, total: int, note: str) -> None:
        if not curve.begun:
            curve.begin(done, _tokens_of(data, options, done - 1))
        curve.note(done, last=done == total)
        progress("distil", done, total, note)

    loop = Loop(student, data, schedule, loss, checkpoint=run_dir / "checkpoint.safetensors",
                key=key)  # fmt: skip
    loop.run(told)


def _tokens_of(data: Encoded, options: GeneralOptions, steps: int) -> int:
    """How many tokens the first steps see."""
    total, epoch = 0, 0
    while steps > 0:
        order = training_order(data, options.batch, options.seed, epoch)[:steps]
        total += sum(len(data.ids[i]) for index in order for i in index)
        steps, epoch = steps - len(order), epoch + 1
    return total


class _Curve:
    """The rows of curve.jsonl. A run that is resumed drops those that came after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.begun = path, list(_rows(path)), False
        self._tokens, self._seen, self._lost = 0, 0, 0.0

    def begin(self, step: int, tokens: int) -> None:
        """Before the row of the first step that is noted: `tokens` were seen before it."""
        self.begun, self._tokens = True, tokens
        self.rows = [row for row in self.rows if row.step < step]

    def saw(self, tokens: int, loss: float) -> None:
        """A batch, or a part of one, and its mean loss."""
        self._seen += tokens
        self._lost += tokens * loss

    def note(self, step: int, *, last: bool) -> None:
        """After a step: a row now and then."""
        if step % _ROW_STEPS and not last:
            return
        self._tokens += self._seen
        self.rows.append(Row(step, self._tokens, self._lost / max(1, self._seen)))
        self._seen, self._lost = 0, 0.0
        lines = [json.dumps(msgspec.to_builtins(row)) + "\n" for row in self.rows]
        with storing(self.path):
            write_whole(self.path, "".join(lines))


def _rows(path: Path) -> Iterator[Row]:
    """What a curve holds; nothing after a line that is damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        try:
            yield msgspec.convert(parse_json(line, str(path), remedy="remove it"), Row)
        except (InputError, msgspec.ValidationError):
            return
