"""Tuning: which plan of each kernel is fastest here, by measurement. See docs/tuning.md."""

from canao.tuning.tuner import Report, TunedKernel, tune_model

__all__ = ["Report", "TunedKernel", "tune_model"]
