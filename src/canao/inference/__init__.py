"""Running a library from Python: the loaded model, its bindings, generation, tasks."""
