"""What trains any model: batches, the loop and its checkpoints, devices and threads, tables of
words cut down, and weights rounded as libraries will have them. May import train/reading,
train/tasks, task_names.py, options.py, model, artifact, machine, defaults, errors, and of the
compiler graph, fuse/simplify.py and precision."""
