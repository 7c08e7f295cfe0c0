"""The compile flow as a list of steps: model, graph, fuse, schedule, emit, build, artifact. Loading
a model, choosing plans and packaging what was built lie beside it. May import everything below
`train`, but no search."""
