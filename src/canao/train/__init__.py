"""Training: data, metrics, the fine-tuned teacher, and students that inherit from it and are
distilled, rounded in the end as their libraries will be. May import model, artifact, machine,
defaults and errors, of a compilation what comes before its kernels: graph, fuse/simplify.py and
precision, and of what libraries do inference/tasks/scheme.py; knows no kernels and no device."""
