"""Programs of torch.export -> Graph: the walk over a program, and the rules for its ATen operators.
May import graph, artifact/text_settings.py, defaults and errors, and torch."""
