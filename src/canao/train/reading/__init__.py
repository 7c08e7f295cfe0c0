"""Labelled text as examples: files and data sets as tables, what their columns mean, and what their
labels are. May import train/task_names.py, inference/tasks/scheme.py, model/inventory/table.py,
artifact/reading.py and errors; loads no torch."""
