"""Trainer: gives the search the proxy score of a candidate, and trains the finished student."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from canao.artifact.files import file_digest, staged_directory, staged_file
from canao.errors import InputError
from canao.model import hf
from canao.model.arch import Arch
from canao.model.directory.checkpoint import content
from canao.model.embedder import Embedder
from canao.model.heads import Head, require_fitting
from canao.model.inventory.inventory import Inventory
from canao.train.data import Example, TextData
from canao.train.distillation.distill import distill, needed
from canao.train.distillation.losses import LOSSES
from canao.train.distillation.signals import Pairing
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine.batches import Encoded
from canao.train.engine.compact import compact_words
from canao.train.engine.compute import computing, training_device
from canao.train.engine.fake_quantization import FakeQuantization, quantizes
from canao.train.engine.loop import Progress, TrainingSchedule
from canao.train.engine.storing import storing
from canao.train.inheritance.contributions import contributions
from canao.train.inheritance.importance import Importance, measure_importance
from canao.train.inheritance.inherit import Kept, even_layers, inherit, keep, share_kept, width_kept
from canao.train.inheritance.pruning import PruningErrors, measure_errors
from canao.train.metrics import Score, check_metric
from canao.train.options import TrainOptions, TrainProgress
from canao.train.ranking.rankers import ranker
from canao.train.ranking.supernet import Supernet, train_supernet
from canao.train.records import digest, read_record, score_of, write_record
from canao.train.teacher.finetune import finetune
from canao.train.teacher.recipe import VERSION as RECIPE_VERSION
from canao.train.teacher.teaching import Teaching
from canao.train.texts import TrainingTexts

_LONGEST = 120  # characters of an architecture in the name of a file
_RECIPE = 1  # raise it when a change makes new scores incomparable with stored ones


@dataclass(frozen=True)
class Student:
    """A trained model, as a standard Hugging Face directory, and its score on the dev set."""

    model_dir: Path
    score: Score


class Trainer:
    """Trains a teacher and its students, and keeps every result in the directory `work`.

        work/teacher/               the fine-tuned teacher         teacher.json   its score
        work/skeletons/ARCH/        students with copied weights, not trained
        work/proxy/ARCH.json        proxy scores, by the options' ranker
        work/supernet.safetensors   the supernet, where that is the ranker
        work/students/ARCH/         distilled to the end           ARCH.json      its score
        work/augmented.json         altered copies of the training texts, where some are asked for
        work/checkpoints/           what a killed run resumes from

    Each result is stored under a key of everything it depends on (teacher, data, options), so a
    changed option recomputes only the results that it affects. `progress` is called often, with
    the stage, the steps done, all steps and a note. `ignored` names files and entries of the
    teacher's directory that would be refused, as for `compile_model`. Finalists also learn what the
    teacher says of the examples `unlabelled`, and of altered copies if the options ask for some.
    """

    def __init__(
        self,
        teacher_dir: str | Path,
        data: TextData,
        work: str | Path,
        options: TrainOptions,
        progress: TrainProgress,
        ignored: Collection[str] = (),
        unlabelled: Sequence[Example] = (),
    ) -> None:
        self.source, self.data, self.work = Path(teacher_dir), data, Path(work)
        self.options, self.progress = options, progress
        self.device = training_device(options.device)
        check_metric(options.metric, data)
        if options.quantized_epochs is not None and not quantizes(options.precision):
            raise InputError(
                f"training: quantized_epochs is {options.quantized_epochs}, and "
                f"{options.precision} rounds nothing that could be trained; leave it out"
            )
        self._inventory = Inventory(self.source, ignored)
        config = hf.load_config(self.source, self._inventory)
        self._config = copy.deepcopy(config)
        self._head = data.task.head_for(self.source, self._inventory)
        if data.task.labelled:
            require_fitting(self.source, config, data.labels, self._head, data.task.name)
            hf.set_labels(self._config, data.labels, self._head)
        else:
            _check_unlabelled(options, data)
        self._arch, positions = hf.arch_of(config), hf.takes(config).tokens
        # A teacher of vectors may read less of a text than its positions allow.
        longest = min(positions, getattr(self._head, "longest", positions))
        if options.max_length > longest:
            raise InputError(
                f"{self.source}: at most {longest} tokens, max_length is "
                f"{options.max_length}; give a smaller one"
            )
        if (options.relation_layer or 1) > self._arch.layers:
            raise InputError(
                f"{self.source}: has {self._arch.layers} layers, relation_layer is "
                f"{options.relation_layer}; give one of them"
            )
        self.texts = TrainingTexts(
            self.source, config, data, options, self._inventory, longest=longest,
            unlabelled=unlabelled, device=self.device, load=self._as_it_came,
        )  # fmt: skip
        self._key = digest(
            content(self.source),
            data.content(),
            [options.max_length, options.batch, options.seed, _RECIPE],
            [*(options.given_for_teacher or ("recipe", RECIPE_VERSION)), options.metric],
            *([] if data.task.labelled else [repr(self._head)]),
        )
        self._model: PreTrainedModel | None = None
        self._importance: Importance | None = None
        self._net: Supernet | None = None
        self._targets: dict[int, TeacherTargets] = {}

    def teacher_arch(self) -> Arch:
        """The teacher's architecture: no student can be larger in any dimension."""
        return self._arch

    def teacher(self) -> Student:
        """The teacher: unchanged if it was trained for these labels, otherwise fine-tuned."""
        directory, record = self.work / "teacher", self.work / "teacher.json"
        stored = score_of(read_record(record, self._key, directory))
        if stored is not None:
            return Student(directory, stored)
        recipe = None
        with computing(self.device, self.options.threads):
            torch.manual_seed(self.options.seed)
            model = self._as_it_came().to(self.device)
            if not hf.is_fine_tuned(*self._given()):
                recipe = self._finetune(model)
            found = self.texts.score(model, teacher=True)
        _save_model(model, self.texts.tokenizer, directory)
        write_record(record, self._key, found, directory, recipe)
        for checkpoint in (self.work / "checkpoints").glob("teacher*"):
            if checkpoint.is_file():
                checkpoint.unlink()
        return Student(directory, found)

    def skeleton(self, arch: Arch) -> Path:
        """A student directory with copied, untrained weights: enough to measure its latency."""
        directory, record = self._place("skeletons", arch)
        key = self.texts.own.key(self._key)
        if read_record(record, key, directory) is None:
            with computing(self.device, self.options.threads):
                student = inherit(self._teacher_model(), arch, self.kept(arch), None)
                self._save_student(student, directory)
            write_record(record, key, None, directory)
        return directory

    def blank(self, arch: Arch) -> torch.nn.Module:
        """A model of that architecture for the data's labels, with random weights: enough to tell
        its kernels."""
        config = hf.student_config(self._config, arch)
        self.texts.own.configure(config)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model = hf.build_classifier(config, self._head).eval()
            for vector in (p for p in model.parameters() if p.ndim == 1):
                # A scale of ones, with which some norms begin, would be no operation.
                vector.add_(0.1 * torch.randn_like(vector))
        return model.compiled() if isinstance(model, Embedder) else model

    def vocabulary(self) -> tuple[int, int] | None:
        """How many rows of the teacher's word embeddings students keep, and of how many; None: all.
        """
        return self.texts.own.sizes

    def word_width(self, arch: Arch) -> int:
        """How wide the word embeddings of that architecture are: some families' are narrow."""
        config = hf.student_config(self._config, arch)
        return int(getattr(config, "embedding_size", None) or arch.hidden)

    def told(self) -> tuple[str, ...]:
        """What students keep of the vocabulary, in a line; nothing where they keep all."""
        return self.texts.own.told(self.texts.tokenizer, self.data.dev)

    def worth(self, arch: Arch) -> float:
        """The share of the teacher's importance (inheritance/importance.py) that the architecture
        keeps: of its heads' and FFN units', times that of its hidden dimensions."""
        kept = self.kept(arch)
        assert self._importance is not None
        return share_kept(self._importance, kept)

    def worth_of_width(self, kept: Kept) -> float:
        """The same of its hidden dimensions alone, of what `kept` said is kept."""
        assert self._importance is not None
        return width_kept(self._importance, kept)

    def errors(self) -> PruningErrors:
        """What each layer of the teacher loses with fewer heads or FFN units; kept in a file."""
        path = self.work / "errors.safetensors"
        found = PruningErrors.load(path, self._key, self._arch)
        if found is None:
            with computing(self.device, self.options.threads):
                found = measure_errors(self._teacher_model(), self.texts.train_set())
            found.save(path, self._key)
        return found

    def kept_layers(self, count: int) -> Sequence[int]:
        """Which of the teacher's layers a student of so many layers keeps."""
        return even_layers(self._arch.layers, count)

    def proxy_score(self, arch: Arch) -> Score:
        """The score of `arch` by the options' ranker: enough to rank candidates."""
        record, rank = self._place("proxy", arch)[1], ranker(self.options.ranker)
        key = digest(self._key, *rank.key(self), *self.texts.own.facts)
        stored = score_of(read_record(record, key))
        if stored is not None:
            return stored
        with computing(self.device, self.options.threads):
            found = rank.score(self, arch)
        write_record(record, key, found)
        return found

    def shortly_trained(self, arch: Arch) -> PreTrainedModel:
        """A student after a few steps of distillation, `quick_steps` of the options."""
        steps, data = self.options.quick_steps, self.texts.train_set()
        data = data.take(range(min(len(data), steps * self.options.batch)))
        student = self.student(arch)
        schedule = self._schedule(steps=steps, epochs=1)
        self._distill(arch, student, data, schedule, f"proxy score {arch}")
        return student

    def supernet(self) -> Supernet:
        """The supernet of the teacher; the first call trains it, a killed one goes on."""
        if self._net is None:
            self.kept(self._arch)  # what is kept of it is measured now, where gradients are
            rank, path = ranker("supernet"), self.work / "supernet.safetensors"
            key, data = digest(self._key, *rank.key(self)), self.texts.train_set()
            net = Supernet(copy.deepcopy(self._teacher_model()), self.kept)
            if not net.load(path, key):
                checkpoint = self._checkpoint("supernet")
                with compact_words(net.model, [data]):
                    train_supernet(
                        net, self._targets_of(data), data,
                        self._schedule(steps=self.options.supernet_steps, epochs=1),
                        self._stage("supernet"), self.options.weights, self._pairing,
                        checkpoint=checkpoint, key=key,
                    )  # fmt: skip
                net.save(path, key)
                checkpoint.unlink(missing_ok=True)
            self._net = net
        return self._net

    def prepare(self) -> None:
        """Make what the proxy scores of all candidates need: the fine-tuned teacher, how much its
        parts matter, and what else the ranker asks of it."""
        with computing(self.device, self.options.threads):
            self.kept(self._arch)
            if self.options.ranker == "supernet":
                self.supernet()
        if self.options.ranker == "pruning":
            self.errors()

    def shared(self) -> str:
        """What says that `prepare` made the same bits here as elsewhere; '' where it made nothing.
        """
        teacher, more = self.work / "teacher", [self.work / name for name in self._common()]
        if not (teacher.is_dir() and all(path.is_file() for path in more)):
            return ""
        files = sorted(path for path in teacher.rglob("*") if path.is_file())
        return digest(self._key, [file_digest(path) for path in (*files, *more)])

    def take(self, work: str, shared: str, host: str) -> None:
        """Take what `prepare` made in the directory `work` of another process, on `host`, unless it
        is here, and require that it is what `shared` says."""
        source, remedy = Path(work), f"copy {work} of {host} to {self.work}, or name the directory"
        if self.shared() == shared:
            return
        if not (source / "teacher").is_dir():
            raise InputError(f"{work}: no fine-tuned teacher of the search is there; {remedy} of "
                             "the search as it is seen from here with --shared")  # fmt: skip
        with storing(self.work):
            with staged_directory(self.work / "teacher") as staged:
                shutil.copytree(source / "teacher", staged, dirs_exist_ok=True)
            for name in self._common():
                with staged_file(self.work / name) as staged:
                    shutil.copyfile(source / name, staged)
        self._model = self._importance = self._net = None
        if self.shared() != shared:
            raise InputError(f"{work}: another teacher than the search's is there; {remedy} of "
                             "the search as it is seen from here with --shared")  # fmt: skip

    def _common(self) -> tuple[str, ...]:
        """The files that `prepare` leaves beside the teacher's directory."""
        more = {"supernet": ("supernet.safetensors",), "pruning": ("errors.safetensors",)}
        return ("teacher.json", "importance.safetensors", *more.get(self.options.ranker, ()))

    def finish(self, arch: Arch) -> Student:
        """The student with this architecture, distilled in full, with its best epoch's weights.

        Where libraries round what they compute, so does the student in its last epochs, and its
        score is with that; what is written are its weights in float32.
        """
        directory, record = self._place("students", arch)
        rounded, rounding = self._rounded_epochs(arch), None
        key = digest(
            self._key, self.options.final_epochs, self.options.student_lr,
            *([rounded, self.options.precision] if rounded else ()),  # once, runs rounded none
            *self.options.losses_key, *self.texts.own.facts, *self.texts.extra.key(),
        )  # fmt: skip
        stored = score_of(read_record(record, key, directory))
        if stored is not None:
            return Student(directory, stored)
        checkpoint = self._checkpoint(directory.name)
        with computing(self.device, self.options.threads):
            data, student = self._final_set(), self.student(arch)
            if rounded:
                longest = hf.takes(student.config).tokens
                rounding = FakeQuantization.of(student, longest, self.options.precision)
            schedule = self._schedule(epochs=self.options.final_epochs, quantized=rounded)
            self._distill(
                arch, student, data, schedule, f"distil {arch}", rounding, checkpoint, key
            )
            with rounding.active(student) if rounding else nullcontext():
                found = self.score(student)
        self._save_student(student, directory)
        write_record(record, key, found, directory)
        checkpoint.unlink(missing_ok=True)
        return Student(directory, found)

    def _distill(
        self, arch: Arch, student: PreTrainedModel, data: Encoded, schedule: TrainingSchedule,
        stage: str, rounding: FakeQuantization | None = None, checkpoint: Path | None = None,
        key: str = "",
    ) -> None:  # fmt: skip
        options, pairing = self.options, self._pairing(student, self.kept(arch))
        targets = self._targets_of(data)
        targets.prepare(needed(options.weights, pairing)[1], self._stage("teacher targets"))
        with compact_words(student, [data, self.texts.dev_set()]):
            distill(
                student, targets, pairing, data, schedule, self._stage(stage), options.weights,
                evaluate=lambda: self.score(student).value, rounding=rounding,
                checkpoint=checkpoint, key=key,
            )  # fmt: skip

    def _pairing(self, student: PreTrainedModel, kept: Kept) -> Pairing:
        options = self.options
        return Pairing.of(
            student, self._teacher_model(), kept.layers, kept.hidden, options.relation_heads,
            options.relation_layer,
        )  # fmt: skip

    def _finetune(self, model: PreTrainedModel) -> dict[str, Any]:
        """Fine-tune the teacher as it was asked for, else as its recipe says; returns how."""
        options, given = self.options, self.options.given_for_teacher
        if given is None:
            data = self.texts.encode(self.data.train)
            with compact_words(model, [data]):
                return Teaching(
                    model, self.data, data, metric=options.metric, seed=options.seed,
                    dtype=options.dtype, checkpoints=self.work / "checkpoints", key=self._key,
                    stage=self._stage,
                ).run().facts()  # fmt: skip
        epochs, rate = given
        schedule = TrainingSchedule(
            epochs=epochs, batch=options.batch, lr=rate, seed=options.seed, dtype=options.dtype
        )
        with compact_words(model, [self.texts.train_set(), self.texts.dev_set(teacher=True)]):
            history = finetune(
                model, self.texts.train_set(), schedule, self._stage("teacher"),
                evaluate=lambda: self.texts.score(model, teacher=True).value,
                checkpoint=self._checkpoint("teacher"), key=self._key,
            )  # fmt: skip
        return {"rate": rate, "epochs": epochs, "best_epoch": 1 + history.index(max(history))}

    def _schedule(self, epochs: int, steps: int = 0, quantized: int = 0) -> TrainingSchedule:
        options = self.options
        return TrainingSchedule(
            epochs=epochs,
            steps=steps,
            batch=options.batch,
            lr=options.student_lr,
            seed=options.seed,
            quantized=quantized,
            dtype=options.dtype,
        )

    def _rounded_epochs(self, arch: Arch) -> int:
        """How many of a finalist's epochs, the last ones, are rounded."""
        precisions = {block.precision or self.options.precision for block in arch.blocks}
        return self.options.rounded_epochs if any(map(quantizes, precisions)) else 0

    def student(self, arch: Arch) -> PreTrainedModel:
        return inherit(self._teacher_model(), arch, self.kept(arch), self.texts.train_set())

    def kept(self, arch: Arch) -> Kept:
        if self._importance is None:
            path = self.work / "importance.safetensors"
            self._importance = Importance.load(path, self._key, self._arch)
            if self._importance is None:
                measure = measure_importance if self.data.task.labelled else contributions
                self._importance = measure(self._teacher_model(), self.texts.train_set())
                self._importance.save(path, self._key)
        return keep(self._arch, arch, self._importance)

    def _given(self) -> tuple[Path, Sequence[str], Inventory, Head]:
        """What the teacher is loaded from, before any training."""
        return self.source, self.data.labels, self._inventory, self._head

    def _as_it_came(self) -> PreTrainedModel:
        """The teacher before any training."""
        return hf.load_classifier(*self._given())

    def _teacher_model(self) -> PreTrainedModel:
        if self._model is None:
            model = hf.load_classifier(
                self.teacher().model_dir, self.data.labels, head=self._head
            )
            self._model = model.to(self.device)
        return self._model

    def _targets_of(self, data: Encoded) -> TeacherTargets:
        """The teacher's targets for `data`, kept because all candidates share them."""
        if len(data) not in self._targets:
            self._targets = {len(data): TeacherTargets(self._teacher_model(), data)}
        return self._targets[len(data)]

    def _final_set(self) -> Encoded:
        """What finalists are trained on."""
        return self.texts.final_set(
            lambda: hf.parts_of(self._teacher_model()).words.weight,
            self.work / "augmented.json", self._key, self._stage("altered copies"),
        )  # fmt: skip

    def score(self, model: PreTrainedModel) -> Score:
        """The score of a student on the development set."""
        return self.texts.score(model)

    def judged(self) -> TextData:
        """The data whose `dev` predictions are compared with; see `TrainingTexts.judged`."""
        return self.texts.judged()

    def _save_student(self, student: PreTrainedModel, directory: Path) -> None:
        """Write a student with the rows that it keeps alone: it has no others afterwards."""
        self.texts.own.shrink(student)
        _save_model(student, self.texts.own.tokenizer, directory)

    def _stage(self, name: str) -> Progress:
        return lambda done, total, note: self.progress(name, done, total, note)

    def _place(self, kind: str, arch: Arch) -> tuple[Path, Path]:
        name = str(arch).replace(" ", "-").replace(":", ".")
        if len(name) > _LONGEST:
            name = f"{name[:_LONGEST]}-{digest(arch.to_json())[:8]}"
        return self.work / kind / name, self.work / kind / f"{name}.json"

    def _checkpoint(self, name: str) -> Path:
        return self.work / "checkpoints" / f"{name}.safetensors"


def _check_unlabelled(options: TrainOptions, data: TextData) -> None:
    """InputError for options that train on labels, where a task has none to train on."""
    if options.given_for_teacher is not None:
        raise InputError(
            "training: teacher_epochs and teacher_lr are of labels, and the teacher of a "
            f"{data.task.name} is taken as it comes; leave them out"
        )
    if not any(LOSSES[name].of_teacher for name in options.weights):
        raise InputError(
            f"training: losses are {options.losses}, and {data.task.name} has no labels to train "
            "on; add one of the teacher, as logits"
        )


def _save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path
) -> None:
    with storing(directory):
        hf.save_model(model, tokenizer, directory)
