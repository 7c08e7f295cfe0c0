"""What trains any model: batches, the loop and its checkpoints, devices and threads, tables of
words cut down, and weights rounded as libraries will have them. May import train/reading,
train/tasks, train/task_names.py, train/options.py, model, artifact, machine, defaults and errors,
and of a compilation graph, fuse/simplify.py and precision."""
