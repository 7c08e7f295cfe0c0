"""Decoders against Transformers in float32: prompts at once, in pieces and token by token."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from canao.build import build_program, get_toolchain
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.errors import InputError, UnsupportedError
from canao.fuse.forms.form import Attention
from canao.graph.interp import interpret
from canao.inference.compiled_model import CompiledModel
from canao.schedule.operands import ROW_MAJOR, Packed
from canao.schedule.weights import Section
from canao.target import get_target
from tests.compiler import programs
from tests.compiler.models import DECODERS, bare_decoder, classifier, decoder
from tests.compiler.test_programs import ARM, RACES, SANITIZERS, gcc
from tests.compiler.test_right import HOST_ISAS, fused_and_not
from tests.conftest import LENGTHS
from tests.oracle import assert_close

HOST = get_target()
IDS = np.random.default_rng(7).integers(0, 99, 200).astype(np.int32)
# Where texts are cut: within a panel of keys, at its end, token by token, over a block of keys.
CUTS = ((5, 6, 13), (1, 2, 3, 4), (63, 64, 65, 66), (100,), (33, 97, 98, 131), range(1, 200))


def logits(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids).long()[None])[0][0].numpy()


def close(got: np.ndarray, want: np.ndarray) -> None:
    assert_close(got, want, scale=max(1.0, float(want.std())))


def in_pieces(compiled: CompiledModel, cuts: Iterable[int], last: bool) -> np.ndarray:
    compiled.reset()
    rows = [
        next(iter(compiled.extend(piece, wanted=1 if last else len(piece)).values()))
        for piece in np.split(IDS, list(cuts))
    ]
    return np.concatenate(rows)


@pytest.mark.parametrize(("shape", "fusion"), fused_and_not(DECODERS, ("prime", "wide_head")))
def test_prompts_and_pieces(shape: str, fusion: bool, tmp_path: Path) -> None:
    model = decoder(shape)
    wanted = {length: logits(model, IDS[:length]) for length in (*LENGTHS, 200)}
    artifact = compile_model(model, tmp_path / "out", fusion=fusion)
    assert artifact.manifest["task"] == "text-generation"
    assert [i["name"] for i in artifact.manifest["inputs"]] == ["input_ids"]
    for threads in (1, 2, 3) if fusion else (2,):
        with CompiledModel(artifact, threads) as compiled:
            for length, want in wanted.items():
                close(compiled(IDS[:length]), want)
                compiled.reset()
                close(compiled.extend(IDS[:length])["logits"], want[-1:])
            for cuts in CUTS:
                close(in_pieces(compiled, cuts, last=False), wanted[200])
                ends = [*(c - 1 for c in cuts), 199]
                close(in_pieces(compiled, cuts, last=True), wanted[200][ends])


@pytest.mark.parametrize("attention", ("eager", "sdpa"))
def test_decoding_is_as_with_past_key_values(attention: str, tmp_path: Path) -> None:
    model = decoder()
    model.set_attn_implementation(attention)
    artifact = compile_model(model, tmp_path / "out")
    with CompiledModel(artifact) as compiled, torch.no_grad():
        known = model(torch.from_numpy(IDS[:31]).long()[None], use_cache=True)
        compiled.extend(IDS[:31], wanted=0)
        for token in IDS[31:70]:
            known = model(
                torch.tensor([[int(token)]]), past_key_values=known.past_key_values, use_cache=True
            )
            close(compiled.extend([token])["logits"], known.logits[0].numpy())


@pytest.mark.parametrize("isa", HOST_ISAS)
@pytest.mark.parametrize("shape", ("odd", "three_heads"))
def test_tied_embeddings_are_stored_once(shape: str, isa: str, tmp_path: Path) -> None:
    """In the panels of the language head, from which tokens are looked up too."""
    model = decoder(shape, layers=1)
    (stored,) = _sections(model, model.transformer.wte.weight)
    assert isinstance(stored.storage, Packed)
    artifact = compile_model(model, tmp_path / "out", target=HOST.with_isa(isa))
    with CompiledModel(artifact) as compiled:
        close(compiled(np.arange(99)), logits(model, np.arange(99)))
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + 1)
    (plain,) = _sections(model, model.transformer.wte.weight)
    assert plain.storage == ROW_MAJOR


def _sections(model: torch.nn.Module, table: torch.Tensor) -> list[Section]:
    """The parts of the weights file that hold a table."""
    stages = compile_graph(load_model(model)[1], HOST)
    constants = stages.program.graph.constants
    return [s for s in stages.schedule.weights.sections
            if np.array_equal(constants[s.value], table.detach().numpy())]  # fmt: skip


def _families() -> dict[str, transformers.PretrainedConfig]:
    """Rotary positions, norms without a mean, gates, keys shared by queries; learned positions
    from 2; layers beside each other; windows."""
    sizes = {"vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "max_position_embeddings": 64, "bos_token_id": 1,
             "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    opt = {name: size for name, size in sizes.items() if name != "intermediate_size"}
    return {
        "Llama": transformers.LlamaConfig(**sizes, num_key_value_heads=2),
        "Qwen3": transformers.Qwen3Config(**sizes, num_key_value_heads=2, head_dim=16),
        "GPTNeoX": transformers.GPTNeoXConfig(**sizes),
        "OPT": transformers.OPTConfig(**opt, ffn_dim=64, word_embed_proj_dim=48),
        "GPTNeo": transformers.GPTNeoConfig(
            **sizes, num_layers=2, num_heads=4, window_size=8,
            attention_types=[[["global", "local"], 1]],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("family", _families())
def test_families_of_decoders(family: str, tmp_path: Path) -> None:
    """From their directories; those that can continue texts write what Transformers writes."""
    torch.manual_seed(8)
    model = getattr(transformers, f"{family}ForCausalLM")(_families()[family]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "model")
    with CompiledModel(compile_model(tmp_path / "model", tmp_path / "out")) as compiled:
        want = {length: logits(model, IDS[:length]) for length in (1, 2, 9, 40)}
        for length, rows in want.items():
            close(compiled(IDS[:length]), rows)
        assert compiled.artifact.resumes is (family != "GPTNeo")
        if compiled.artifact.resumes:
            compiled.reset()
            pieces = np.split(IDS[:40], [5, 6, 20])
            got = [compiled.extend(p, wanted=len(p))["logits"] for p in pieces]
            close(np.concatenate(got), want[40])
            written = model.generate(torch.from_numpy(IDS[:7]).long()[None], max_new_tokens=20,
                                     min_new_tokens=20, do_sample=False)[0, 7:]  # fmt: skip
            assert compiled.generate(IDS[:7], 20, stop=()).tolist() == written.tolist()


def test_the_oracle_continues_texts() -> None:
    model = decoder("odd")
    graph = compile_graph(load_model(model)[1], HOST).program.graph
    result, cache = dict(graph.outputs)["logits"], {}
    pieces = [interpret(graph, [p], cache=cache)[result][0] for p in np.split(IDS[:40], [1, 9, 32])]
    close(np.concatenate(pieces), logits(model, IDS[:40]))


def test_long_texts_pass_over_blocks_of_keys(tmp_path: Path) -> None:
    """More keys than are held at once, with a diagonal in the middle of a block."""
    model = decoder("prime", layers=1, max_length=1300)
    ids = np.random.default_rng(1).integers(0, 99, 1300).astype(np.int32)
    want = logits(model, ids)
    with CompiledModel(compile_model(model, tmp_path / "out"), 2) as compiled:
        close(compiled(ids), want)
        for piece in np.split(ids, [509, 510, 515, 1021, 1022, 1023, 1024, 1025, 1299]):
            got = compiled.extend(piece)["logits"]
        close(got, want[-1:])


def test_greedy_text_is_that_of_transformers(tmp_path: Path) -> None:
    model = decoder("untied")  # a tied head repeats its last token
    with CompiledModel(compile_model(model, tmp_path / "out"), 2) as compiled:
        for length in (1, 5, 40):
            prompt = torch.from_numpy(IDS[:length]).long()[None]
            want = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=60,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
            got = compiled.generate(IDS[:length], 60)
            assert got.tolist() == want[0, length:].tolist() and len(set(got.tolist())) > 5
            assert compiled.generate(IDS[:length], 60, stop=[int(got[2])]).tolist() == [
                *got[: got.tolist().index(got[2]) + 1]
            ]


def test_hidden_states_continue(tmp_path: Path) -> None:
    model = bare_decoder()
    artifact = compile_model(model, tmp_path / "out")
    assert artifact.manifest["task"] == "feature-extraction"
    with CompiledModel(artifact, 2) as compiled:
        compiled.extend(IDS[:64], wanted=0)
        close(next(iter(compiled.extend(IDS[64:100], wanted=9).values())),
              logits(model, IDS[:100])[-9:])  # fmt: skip


@pytest.mark.as_shipped
@pytest.mark.parametrize("isa", HOST_ISAS)
def test_every_isa_of_this_machine(isa: str, tmp_path: Path) -> None:
    model = decoder("odd")
    want = logits(model, IDS)
    for fusion in (True, False):
        artifact = compile_model(model, tmp_path / "out", target=HOST.with_isa(isa), fusion=fusion)
        with CompiledModel(artifact, 2) as compiled:
            close(in_pieces(compiled, (31, 32, 33, 90), last=False), want)


def test_runs_start_anew(tmp_path: Path) -> None:
    model = decoder()
    with CompiledModel(compile_model(model, tmp_path / "out"), 2) as compiled:
        compiled.extend(IDS[:9])
        assert compiled.sequence_length == 9
        compiled(IDS[:5])
        assert compiled.sequence_length == 0
        compiled.extend(IDS[:20])
        compiled.reset(7)
        close(compiled.extend(IDS[7:12])["logits"], logits(model, IDS[:12])[-1:])
        texts = [IDS[:n] for n in (3, 100, 31, 7)]
        for text, got in zip(texts, compiled.run_batch(texts), strict=True):
            close(got, logits(model, text))
        close(compiled.extend(IDS[:3])["logits"], logits(model, IDS[:3])[-1:])
        for wrong, message in (
            (lambda: compiled.extend(IDS[:198]), "198 tokens after 3"),
            (lambda: compiled.extend([99]), "input_ids holds 99"),
            (lambda: compiled.extend([1], wanted=2), "outputs of 2 tokens"),
            (lambda: compiled.reset(4), "4 tokens cannot be kept"),
            (lambda: compiled.generate(np.zeros(201, np.int32)), r"shape \[201\]"),
            (lambda: compiled.generate([]), r"shape \[0\]"),
            (lambda: compiled.generate([1], temperature=-1.0), "temperature is -1"),
        ):
            with pytest.raises(InputError, match=message):
                wrong()
        assert compiled.sequence_length == 3


def test_encoders_have_no_text(tmp_path: Path) -> None:
    artifact = compile_model(classifier("small"), tmp_path / "out")
    assert "canao_extend" not in (tmp_path / "out" / "canao_model.h").read_text()
    with CompiledModel(artifact) as compiled, pytest.raises(InputError, match="does not continue"):
        compiled.generate([1])


def test_bert_as_a_decoder(tmp_path: Path) -> None:
    """Another family: positions from a buffer, norms after the residual, products merged."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=99, hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
                        intermediate_size=40, is_decoder=True, initializer_range=0.1)  # fmt: skip
    model = BertLMHeadModel(config).eval()
    artifact = compile_model(model, tmp_path / "out")
    assert artifact.resumes and artifact.manifest["task"] == "text-generation"
    for threads in (1, 2, 3):
        with CompiledModel(artifact, threads) as compiled:
            close(in_pieces(compiled, (3, 64, 65), last=False), logits(model, IDS))
            close(in_pieces(compiled, (3, 64, 65, 199), last=True), logits(model, IDS)[
                [2, 63, 64, 198, 199]])  # fmt: skip


def run(command: Sequence[str], lines: Sequence[str]) -> list[np.ndarray]:
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and not done.stderr, done.stderr[:2000]
    return [np.array(line.split(), np.float32) for line in done.stdout.splitlines()]


def extend(ids: np.ndarray, wanted: int) -> str:
    return " ".join(map(str, ("e", len(ids), wanted, *ids)))


def check_program(model: torch.nn.Module, command: Sequence[str], threads: int) -> None:
    want = logits(model, IDS)
    cuts = (1, 15, 16, 17, 50, 130, 199)
    lines = [extend(p, len(p)) for p in np.split(IDS, cuts)]
    lines += [extend(IDS[:1], 1), "r 201", "r -1", "r 40", "e 1 0 99", "e 1 0 -1", "e 0 0",
              extend(IDS[:3], 4), extend(IDS[40:90], 2), "w 33 " + " ".join(map(str, IDS[:33])),
              "r 1", extend(IDS[:200], 0), extend(IDS[:1], 0)]  # fmt: skip
    rows = run([*command, str(threads)], lines)
    pieces = [row[1:] for row in rows[: len(cuts) + 1]]
    close(np.concatenate(pieces).reshape(want.shape), want)
    full, beyond, below, reset, high, low, none, more, two, whole, empty, all_, over = rows[8:]
    codes = [int(r[0]) for r in (full, beyond, below, reset, high, low, none, more, two, empty)]
    assert codes == [2, 1, 1, 0, 3, 3, 2, 1, 0, 1] and (all_[0], over[0]) == (0, 2)
    close(two[1:].reshape(2, -1), want[88:90])
    close(whole[1:].reshape(33, -1), want[:33])


@pytest.mark.parametrize("fusion", (True, False), ids=("fused", "unfused"))
@pytest.mark.parametrize("isa", sorted({"scalar", HOST.isa}))
def test_under_address_and_undefined_sanitizers(isa: str, fusion: bool, tmp_path: Path) -> None:
    target = HOST.with_isa(isa)
    # Of the first with the register tiles that users get, which gcc takes long to compile.
    for shape, rows in (("odd", 99), ("three_heads", 3)):
        model = decoder(shape, layers=1)
        schedule = programs.few_rows(programs.staged(model, target, fusion).program, target, rows)
        command = programs.build_schedule(schedule, target, tmp_path, get_toolchain(gcc()),
                                          SANITIZERS, "extend_harness.c")  # fmt: skip
        for threads in (1, 2):
            check_program(model, command, threads)


def test_under_thread_sanitizer(tmp_path: Path) -> None:
    for fusion in (True, False):
        model = decoder("three_heads")
        stages = programs.staged(model, HOST, fusion)
        command = programs.build(stages, HOST, tmp_path, get_toolchain(gcc()), RACES,
                                 "extend_harness.c")  # fmt: skip
        check_program(model, command, 3)


@pytest.mark.cross
def test_neon_under_qemu(qemu: str, tmp_path: Path) -> None:
    for fusion in (True, False):
        model = decoder("odd", layers=1)
        stages = programs.staged(model, ARM, fusion)
        command = programs.build(stages, ARM, tmp_path, None, ("-static",), "extend_harness.c")
        check_program(model, [qemu, *command], 2)


@pytest.mark.parametrize("compiler", ("zig", "gcc"))
def test_no_warnings(compiler: str) -> None:
    toolchain = get_toolchain(gcc() if compiler == "gcc" else "zig")
    for fusion, flags in ((True, ("-Werror", "-O1")), (False, ("-Werror",))):
        stages = programs.staged(decoder("odd", layers=1), HOST, fusion)
        build_program(programs.sources(stages.source, "extend_harness.c"), HOST.least, toolchain,
                      flags)  # fmt: skip


def test_layers_end_in_seven_kernels() -> None:
    stages = compile_graph(load_model(decoder(layers=4))[1], HOST)
    assert stages.kernels <= 7 * 4 + 4
    attention = [r for r in stages.program.regions if isinstance(r.form, Attention)]
    last = stages.schedule.memory.last
    # From the last attention on: its result, its output, the norm, two products, the head.
    assert [r.output in last for r in attention] == [False] * 3 + [True]
    assert len(last) == 6


def test_a_head_that_picks_one_token_has_no_text() -> None:
    """It looks for the last token that is no padding: another place in each text."""
    config = GPT2Config(vocab_size=99, n_embd=48, n_head=3, n_layer=1, n_positions=64,
                        bos_token_id=0, eos_token_id=98, pad_token_id=98)  # fmt: skip
    model = GPT2ForSequenceClassification(config).eval()
    with pytest.raises(UnsupportedError, match=r"aten\.argmax\.default at the top of"):
        load_model(model)
