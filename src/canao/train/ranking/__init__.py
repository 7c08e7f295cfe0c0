"""Which of two architectures makes the better student, said before either is trained. May import
train/distillation, train/inheritance, train/engine, train/metrics.py, options.py and model."""
