"""The teacher's fine-tuning: by which recipe, its head alone, and the whole model. May import
train/data.py, train/tasks, train/engine, metrics.py, model, artifact and errors."""
