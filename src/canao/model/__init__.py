"""The models that are searched, trained and compiled: their shape, their files, tokenizer, head and
pooling. May import artifact, defaults and errors; knows nothing of graphs and kernels."""
