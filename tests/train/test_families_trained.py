"""Students of every family: trained, compiled, rounded, distilled on plain text, searched for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

import canao
from canao.accuracy.measure import predictions
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.defaults import LIMITS, silent
from canao.fuse.simplify import rewritten
from canao.graph.from_torch.trace import trace
from canao.graph.interp import interpret
from canao.inference.compiled_model import CompiledModel
from canao.model import hf
from canao.precision.quantize import in_precision
from canao.search.latency.kernels import Imported, KernelNames, Known
from canao.target import get_target
from canao.train.data import TextData
from canao.train.engine.fake_quantization import FakeQuantization
from canao.train.options import TrainOptions
from canao.train.trainer import Trainer
from tests.oracle import assert_close
from tests.train.tiny_bert import BAD, GOOD, PLAIN, write_task
from tests.train.tiny_families import FULL, save_tiny_of, smaller, uneven

# ELECTRA twice: its students' embeddings differ. XLM-RoBERTa and CamemBERT are RoBERTa's modules.
EACH = ["distilbert", "roberta", "electra", "electra-wide", "mobilebert", "mobilebert-bare",
        "canao-bert"]  # fmt: skip
FIRST = ["distilbert", "roberta", "electra", "mobilebert-bare"]
OPTIONS = TrainOptions(
    max_length=32, batch=16, teacher_epochs=8, teacher_lr=2e-3, quick_steps=5, final_epochs=2,
    student_lr=1e-3, threads=1, losses="logits,labels,hidden,attention,relations,progressive",
)  # fmt: skip


def texts(model: PreTrainedModel) -> list[np.ndarray]:
    """Ids of texts of several lengths, the longest one among them."""
    most = hf.takes(model.config).tokens
    draw = np.random.default_rng(1)
    return [draw.integers(2, 25, n).astype(np.int32) for n in (1, 7, 31, most)]


def logits(model: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(ids)[None].long()).logits[0].numpy()


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in FIRST else pytest.mark.thorough) for name in EACH
])  # fmt: skip
def test_a_student_from_teacher_to_library(name: str, task: TextData, tmp_path: Path) -> None:
    """Fine-tuned, ranked, finished and compiled; the library computes what Transformers does."""
    trainer = Trainer(save_tiny_of(name, tmp_path / "m"), task, tmp_path / "w", OPTIONS, silent)
    assert trainer.teacher_arch() == FULL[name]
    assert trainer.teacher().score.value > 0.8
    arch = smaller(name)
    assert trainer.proxy_score(arch).value > 0.4
    assert 0 < trainer.worth(arch) < trainer.worth(FULL[name]) == pytest.approx(1)
    student = trainer.finish(arch)
    assert student.score.value > 0.7
    model = AutoModelForSequenceClassification.from_pretrained(student.model_dir).eval()
    artifact = compile_model(student.model_dir, tmp_path / "out")
    with CompiledModel(artifact) as library:
        for ids in texts(model):
            given = [ids, np.zeros_like(ids)][: len(artifact.manifest["inputs"])]
            found = np.ravel(library(*given))
            assert_close(found, logits(model, ids))
    assert predictions(artifact, task).score.value == pytest.approx(student.score.value)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("shape", [smaller, uneven])
def test_kernels_are_told_from_halves(
    name: str, shape: object, task: TextData, tmp_path: Path
) -> None:
    assert callable(shape)
    options = replace(OPTIONS, teacher_epochs=1)
    trainer = Trainer(save_tiny_of(name, tmp_path / "m"), task, tmp_path / "w", options, silent)
    arch, target = shape(name), get_target()
    names = KernelNames(Imported(trainer.blank, target, "float32"), Known()).of(arch)
    # A skeleton's weights are the teacher's, and a student's are trained.
    student = hf.build_classifier(hf.student_config(trainer.blank(arch).config, arch))
    with torch.no_grad():
        for weight in student.parameters():
            weight += 0.1 * torch.randn_like(weight)
    for model in (trainer.skeleton(arch), student):
        stages = compile_graph(load_model(model)[1], target)
        kernels = [kernel for kernel in stages.schedule.kernel_names() if kernel]
        assert sorted(names.elements()) == sorted(kernels)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("shape", [smaller, uneven, FULL.__getitem__])
def test_rounded_students_compute_as_the_compilers_graph(
    name: str, shape: object, tmp_path: Path
) -> None:
    """Against the interpreter, of which both are a rounding away; float32 is far."""
    assert callable(shape)
    config = hf.load_config(save_tiny_of(name, tmp_path, vocab_size=3000))
    torch.manual_seed(2)
    model = hf.build_classifier(hf.student_config(config, shape(name))).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    most = hf.takes(model.config).tokens
    rounding = FakeQuantization.of(model, most)
    assert len(rounding.factors) > 3
    graph = in_precision(rewritten(trace(model, most), True, LIMITS)[1], "int8")
    taken = [i.name for i in graph.inputs if i.given]
    for length in (1, 2, 17, most):
        ids = np.random.default_rng(length).integers(2, 3000, length)
        inputs = {"input_ids": ids, "token_type_ids": np.zeros(length, int)}
        want = interpret(graph, [inputs[n] for n in taken], np.float32)[graph.outputs[0][1]]
        plain = logits(model, ids)
        with rounding.active(model):
            found = logits(model, ids)
        far = np.abs(plain - np.ravel(want)).max()
        assert far > 1e-5 and np.abs(found - np.ravel(want)).max() < 0.1 * far


@pytest.mark.parametrize("name", EACH)
def test_a_student_of_plain_text(name: str, tmp_path: Path) -> None:
    """An encoder of the shape that was asked for, which can be fine-tuned and compiled."""
    text = tmp_path / "plain.txt"
    pick = np.random.default_rng(1)
    text.write_text("\n".join(" ".join(pick.choice([*GOOD, *BAD, *PLAIN], 12)) for _ in range(60)))
    teacher = save_tiny_of(name, tmp_path / "teacher")
    arch = smaller(name)
    found = canao.distil(
        teacher=teacher, text=text, arch=str(arch), run_dir=tmp_path / "run", tokens=9000,
        length=16, batch=8, lr=2e-3,
    )  # fmt: skip
    assert found.curve[-1].loss < found.curve[0].loss
    model = AutoModel.from_pretrained(found.model_dir)
    assert hf.arch_of(model.config) == arch
    again = hf.load_classifier(found.model_dir, ("neg", "pos"))
    assert again.config.num_labels == 2
    compiled = canao.compile(found.model_dir, tmp_path / "out")
    ids = np.array([2, 7, 9, 3], dtype=np.int32)
    with torch.no_grad():
        want = model.eval()(torch.from_numpy(ids)[None].long()).last_hidden_state[0].numpy()
    given = [ids, np.zeros_like(ids)][: len(compiled.artifact.manifest["inputs"])]
    got = compiled.run(*given)["last_hidden_state"]
    assert_close(got, want)


@pytest.mark.parametrize("name", ["distilbert", "mobilebert"])
def test_a_deeper_student_of_plain_text(name: str, tmp_path: Path) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("\n".join(f"the film was {word}" for word in (*GOOD, *BAD)) + "\n")
    arch = smaller(name)
    deep = canao.Arch(arch.hidden, arch.head_size, (arch.blocks[0],) * 5)
    found = canao.distil(
        teacher=save_tiny_of(name, tmp_path / "teacher"), text=text, arch=str(deep),
        run_dir=tmp_path / "run", tokens=500, length=16, batch=8,
    )  # fmt: skip
    assert hf.arch_of(AutoModel.from_pretrained(found.model_dir).config) == deep


@pytest.mark.parametrize(
    ("name", "precision", "controller"),
    [("roberta", "int8", "random"), ("mobilebert-bare", "float32", "ziplm")],
)
def test_a_search(name: str, precision: str, controller: str, tmp_path: Path) -> None:
    """From the teacher to the certificate, on a device that runs nothing."""
    teacher = save_tiny_of(name, tmp_path / "teacher")
    data = write_task(tmp_path / "task", train=96)
    more = {"max_loss": 20} if precision != "float32" else {}
    search = partial(
        canao.search, teacher=teacher, data=data, budget_ms=2.0, run_dir=tmp_path / "run",
        device="null", precision=precision, trials=1, quick_steps=2, epochs=2, teacher_epochs=2,
        teacher_lr=2e-3, length=16, controller=controller, **more,
    )  # fmt: skip
    result = search()
    assert result.artifact.manifest["precision"] == precision
    assert len([trial for trial in result.trials if trial.trained]) == 1
    assert all(trial.arch.width <= FULL[name].width for trial in result.trials)
    with CompiledModel(result.artifact) as library:
        assert library.arrays("a good film")
    assert search().score == result.score
