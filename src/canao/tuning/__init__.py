"""Tuning: which plan of each kernel is fastest here, by measurement. See docs/tuning.md."""

from canao.tuning.tuner import TunedKernel, TuningResult, tune_model

__all__ = ["TuningResult", "TunedKernel", "tune_model"]
