"""Distillation on plain text: what is learnt, kept, resumed and refused."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

import canao
from canao.errors import InputError
from canao.model import hf
from canao.model.arch import Arch
from canao.train.distillation.general import pieces, start
from canao.train.engine.batches import collate
from canao.train.inheritance.contributions import contributions
from tests.oracle import OF_STATES, SAME, assert_close
from tests.train.tiny_bert import BAD, GOOD, PLAIN, save_tiny

SMALL = {"tokens": 6000, "length": 16, "batch": 8, "lr": 2e-3}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("general") / "teacher")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pick = random.Random(1)
    lines = [" ".join(pick.choices((*GOOD, *BAD, *PLAIN), k=pick.randint(1, 40)))
             for _ in range(120)]  # fmt: skip
    path = tmp_path_factory.mktemp("text") / "plain.txt.gz"
    path.write_bytes(gzip.compress("\n".join([*lines, "", "  "]).encode()))
    return path


def distil(teacher: Path, text: Path, arch: str, run_dir: Path, **changes: Any) -> Any:
    return canao.distil(teacher=teacher, text=text, arch=arch, run_dir=run_dir, **SMALL | changes)


@pytest.mark.parametrize(
    ("arch", "losses"),
    [
        ("L2 H24 A3 F32", "hidden=1,relations=1"),
        ("L5 H16 A2 F24", "progressive,relations"),  # deeper than its teacher, and narrower
        ("H24 D8 2+32 0+16 3+0", "hidden,attention"),
    ],
)
def test_a_student_learns_and_is_a_plain_encoder(
    arch: str, losses: str, teacher: Path, text: Path, tmp_path: Path
) -> None:
    found = distil(teacher, text, arch, tmp_path / "run", losses=losses)
    assert str(found.arch) == arch
    rows = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").open()]
    assert [r["step"] for r in rows] == sorted({r["step"] for r in rows}) and len(rows) >= 2
    assert rows[-1]["tokens"] >= 0.9 * 6000
    model = AutoModel.from_pretrained(found.model_dir)
    assert hf.arch_of(model.config) == Arch.parse(arch)
    assert not any("classifier" in name for name in model.state_dict())
    # Nearer to its teacher than at its start, on the loss that it was trained for.
    assert rows[-1]["loss"] < rows[0]["loss"]
    # It can be a teacher and be compiled.
    compiled = canao.compile(found.model_dir, tmp_path / "out")
    ids = np.array([2, 7, 9, 3], dtype=np.int32)
    with torch.no_grad():
        want = model.eval()(torch.from_numpy(ids)[None].long()).last_hidden_state[0].numpy()
    got = compiled.run(ids, np.zeros_like(ids))["last_hidden_state"]
    assert_close(got, want)
    assert distil(teacher, text, arch, tmp_path / "run", losses=losses).curve == found.curve
    with pytest.raises(InputError, match="holds another student"):
        distil(teacher, text, arch, tmp_path / "run", losses=losses, seed=1)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canao.train.engine.loop._CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("canao.train.distillation.general._ROW_STEPS", 10)
    steps: list[int] = []

    def stop(stage: str, done: int, total: int, note: str) -> None:
        steps.append(done)
        if stage == "distil" and done == 27:
            raise KeyboardInterrupt

    arch, run = "L2 H24 A3 F32", tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        distil(teacher, text, arch, run, train_progress=stop)
    assert not (run / "model").exists() and (run / "checkpoint.safetensors").exists()
    again = distil(teacher, text, arch, run)
    whole = distil(teacher, text, arch, tmp_path / "whole")
    assert [(r.step, r.tokens) for r in again.curve] == [(r.step, r.tokens) for r in whole.curve]
    one, other = (AutoModel.from_pretrained(f.model_dir).state_dict() for f in (again, whole))
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name
    assert not (run / "checkpoint.safetensors").exists()


def test_long_lines_are_cut_and_short_texts_repeated(teacher: Path) -> None:
    tokenizer = hf.load_tokenizer(teacher)
    lines = ["good film " * 20, "", "bad"]
    found = pieces(tokenizer, lines, 16, 10_000)
    assert [len(ids) for ids in found.ids] == [16, 16, 14, 3]  # 40 words in pieces of 14
    assert all(ids[0] == 2 and ids[-1] == 3 for ids in found.ids)
    words = [int(i) for ids in found.ids[:3] for i in ids[1:-1]]
    assert words == tokenizer("good film " * 20, add_special_tokens=False)["input_ids"]
    assert len(pieces(tokenizer, lines, 16, 20).ids) == 2
    with pytest.raises(InputError, match="no tokens"):
        pieces(tokenizer, [], 16, 10)


def test_what_contributes_nothing_is_not_kept(teacher: Path, text: Path) -> None:
    """Heads and units whose output weights are 0, and those of a unit that is never active."""
    model = hf.load_classifier(teacher, ())
    with torch.no_grad():
        layer = model.bert.encoder.layer[1]
        layer.attention.output.dense.weight[:, 8:16] = 0
        layer.output.dense.weight[:, 5] = 0
    data = pieces(hf.load_tokenizer(teacher), ["good film", "a bad plot was it"], 16, 100)
    found = contributions(model, data)
    assert float(found.heads[1, 1]) == 0 < float(found.heads[1, [0, 2, 3]].min())
    assert float(found.ffn_units[1, 5]) == 0 < float(found.ffn_units[1, 6:].max())
    # Mean squares, independently: of the first layer's queries and keys.
    batch = collate(data, range(len(data)))
    with torch.no_grad():
        x = model.bert.embeddings(batch.ids, batch.types)[batch.padding_mask.bool()]
        own = model.bert.encoder.layer[0].attention.self
        want = own.query(x).square().mean(0) * own.key(x).square().mean(0)
    assert_close(found.scores[0], want, tolerance=SAME, relative=OF_STATES)


def test_deeper_students_are_compared_by_their_share_of_the_depth(
    teacher: Path, text: Path
) -> None:
    model = hf.load_classifier(teacher, ())
    data = pieces(hf.load_tokenizer(teacher), ["good film", "a bad plot was it"], 16, 100)
    student, pairing = start(model, Arch.parse("L7 H16 A2 F8"), data)
    assert pairing.layers == tuple(enumerate((0, 0, 1, 1, 2, 2, 2)))
    assert pairing.relations == (6, 2)
    words = hf.parts_of(student).words.weight
    assert torch.equal(words, hf.parts_of(model).words.weight[:, pairing.hidden])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "L2 H48 A3 F32"}, "wider than the teacher, which has 32"),
        ({"arch": "L2 H24"}, r"'L2 H24' is not understood; give .*'L6 H192 A6 F768'"),
        ({"arch": "L2 H25 A3 F32"}, "hidden 25 is not a multiple of heads 3"),
        ({"losses": "logits,hidden"}, "the loss 'logits' is of a task.* hidden, attention"),
        ({"losses": "hiden"}, "loss 'hiden' is not one of"),
        ({"length": 100}, "at most 64 tokens, --length is 100"),
        ({"tokens": 0}, "tokens is 0, least is 1"),
        ({"lr": 2.0}, "lr is 2; give"),
        ({"text": "nowhere.txt"}, "nowhere.txt"),
        ({"text": "table.tsv"}, "table.tsv: not a .txt file"),
        ({"text": "empty.txt"}, "no tokens|empty"),
        ({"teacher": "nowhere"}, "nowhere"),
        ({"train_device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_bad_input_is_one_line(
    changes: dict[str, Any], words: str, teacher: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "table.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "empty.txt").write_text("")
    asked: dict[str, Any] = {"teacher": teacher, "text": text, "arch": "L2 H24 A3 F32"}
    asked |= SMALL | {"run_dir": tmp_path / "run"} | changes
    for name in ("text", "teacher"):
        if name in changes:
            asked[name] = tmp_path / changes[name]
    with pytest.raises(InputError, match=words) as raised:
        canao.distil(**asked)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "model").exists()
