"""Labelled text as examples: files and data sets as tables, what their columns mean, and what their
labels are. May import artifact/reading.py, errors, task_names.py, inference/tasks/scheme.py and
model/inventory/table.py; loads no torch."""
