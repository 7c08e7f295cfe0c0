"""Students that learn from their teacher: the losses, what they compare, and examples without
labels, down to plain text. May import train/inheritance, train/teacher, train/records.py,
train/engine, train/data.py, train/reading, model, artifact, errors, and what options say:
options.py, loss_names.py and task_names.py."""
