"""Which plan of each kernel is fastest here, by measurement; see docs/tuning.md. May import
compiler, device and what is below them; knows no search."""

from canao.tuning.tuner import TunedKernel, TuningResult, tune_model

__all__ = ["TuningResult", "TunedKernel", "tune_model"]
