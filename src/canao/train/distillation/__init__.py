"""Students that learn from their teacher: the losses, what they compare, and examples without
labels, down to plain text. May import train/inheritance, train/teacher, train/engine,
train/reading, train/data.py, train/records.py, train/options.py, train/loss_names.py,
train/task_names.py, model, artifact and errors."""
