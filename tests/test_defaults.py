"""A default is written once: the command line, the Python interface and the options agree."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

from canao import api
from canao.cli import app as cli
from canao.cli.demo_command import DemoOptions
from canao.cli.parsing import compiling, running, training
from canao.defaults import DEVICE, TARGET, TOOLCHAIN, TUNE_SECONDS, field_defaults
from canao.device.base import MeasureConfig
from canao.search.options import DEFAULTS, SearchOptions
from canao.train.distillation.general_options import GeneralOptions
from canao.train.options import TrainOptions

PROTOCOL, TRAINING = MeasureConfig(), TrainOptions()
MEASURED = {"length": PROTOCOL.length, "threads": PROTOCOL.threads}
TUNED = MEASURED | {"target": TARGET, "device": DEVICE, "budget_s": TUNE_SECONDS}
SEARCHED = {
    **{name: getattr(DEFAULTS, name) for name in
       ("run_dir", "task", "trials", "max_minutes", "controller", "seed", "percentile",
        "max_loss")},
    **{name: getattr(TRAINING, name) for name in
       ("metric", "ranker", "quick_steps", "supernet_steps", "teacher_epochs", "teacher_lr",
        "precision", "quantized_epochs", "losses", "relation_heads", "relation_layer", "augment",
        "augment_model", "prune_vocabulary", "vocabulary")},
    **MEASURED,
    "samples": PROTOCOL.samples, "epochs": TRAINING.final_epochs, "device": DEVICE,
}  # fmt: skip
GENERAL = GeneralOptions()
DISTILLED = {
    **{name: getattr(GENERAL, name) for name in
       ("tokens", "length", "batch", "lr", "losses", "seed")},
    "train_device": GENERAL.device, "train_dtype": GENERAL.dtype,
}  # fmt: skip
BENCHED = MEASURED | {
    name: getattr(PROTOCOL, name) for name in ("samples", "seconds", "max_seconds", "warmup")
}
COMMANDS = {
    "search": {("out_dir" if name == "run_dir" else name): v for name, v in SEARCHED.items()},
    "tune": TUNED | {"cc": TOOLCHAIN},
    "compile": {"target": TARGET, "cc": TOOLCHAIN},
    "bench": BENCHED | {"device": DEVICE, "cores": "", "percentile": "50,90,95,99"},
    "certify": MEASURED | {"samples": PROTOCOL.samples, "percentile": DEFAULTS.percentile,
                           "device": DEVICE},
    "verify": {"threads": PROTOCOL.threads, "device": DEVICE, "length": None},
    "devices": {"device": None},
    "worker": {"out_dir": None, "train_device": TRAINING.device, "train_dtype": None},
    "distil": DISTILLED | {"out_dir": api.DISTIL_DIR},
    "inspect": {"length": PROTOCOL.length, "target": TARGET},
    "run": {"threads": PROTOCOL.threads},
    "demo": {("out_dir" if name == "run_dir" else name): value
             for name, value in vars(field_defaults(DemoOptions)).items()},
}  # fmt: skip
FUNCTIONS = {
    "search": SEARCHED,
    "tune": TUNED | {"target": None},  # what the device is
    "worker": {"run_dir": None, "train_device": TRAINING.device, "train_dtype": None},
    "distil": DISTILLED | {"run_dir": api.DISTIL_DIR},
    "compile": {"target": TARGET, "threads": PROTOCOL.threads},
    "load": {"threads": PROTOCOL.threads},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str) -> None:
    options = {p.name: p for p in get_command(cli.app).commands[name].params}
    assert {key: options[key].default for key in COMMANDS[name]} == COMMANDS[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    parameters = inspect.signature(getattr(api, name)).parameters
    assert {key: parameters[key].default for key in FUNCTIONS[name]} == FUNCTIONS[name]


@pytest.mark.parametrize("command", ["search", "tune", "worker"])
def test_a_command_takes_what_the_function_takes(command: str) -> None:
    """Nothing of the Python interface is missing on the command line, callbacks apart."""
    options = {p.name for p in get_command(cli.app).commands[command].params}
    parameters = set(inspect.signature(getattr(api, command)).parameters)
    named = {"ignore": "ignored"} | ({"out_dir": "run_dir"} if command != "tune" else {})
    only_python = {"progress", "train_progress"}
    assert parameters - only_python <= {named.get(option, option) for option in options}


@pytest.mark.parametrize("module", [api, compiling, running, training], ids=lambda m: m.__name__)
def test_no_default_is_written_out(module: ModuleType) -> None:
    """A signature of these modules holds no number or word: `length: int = 128` is a second 128."""


    tree = ast.parse(inspect.getsource(module))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    written = [
        f"{function.name}: {ast.unparse(default)}"
        for function in functions
        for default in (*function.args.defaults, *function.args.kw_defaults)
        if isinstance(default, ast.Constant) and default.value not in (None, True, False)
    ]
    assert functions and written == []


def test_the_value_types_hold_each_other() -> None:
    """A search with nothing but a budget has the defaults of the types in it."""
    options = SearchOptions(budget_ms=1.0)
    assert (options.measure, options.training) == (PROTOCOL, TRAINING)
    assert not hasattr(DEFAULTS, "budget_ms")
    expected: dict[str, Any] = {name: getattr(options, name) for name in vars(DEFAULTS)}
    assert vars(field_defaults(SearchOptions)) == expected
