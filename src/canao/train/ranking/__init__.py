"""Which of two architectures makes the better student, said before either is trained. May import
train/distillation, train/inheritance, train/engine, train/metrics.py, train/options.py and
model."""
