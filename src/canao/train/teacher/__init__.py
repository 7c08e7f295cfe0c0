"""The teacher's fine-tuning: by which recipe, its head alone, and the whole model. May import
train/engine, train/tasks, train/data.py, train/metrics.py, model, artifact and errors."""
