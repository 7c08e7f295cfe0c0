"""The models that are searched, trained and compiled: their shape, their files, tokenizer, head and
pooling. May import artifact and errors; knows nothing of graphs and kernels."""
