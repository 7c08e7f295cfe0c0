"""The compile flow as a list of steps: model, graph, fuse, schedule, emit, build, artifact. Loading
a model, choosing plans and packaging what was built lie beside it. May import build, what is
below it, and inference/tasks/table.py; knows no device and no search."""
