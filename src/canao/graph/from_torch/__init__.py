"""Programs of torch.export -> Graph: the walk over a program, and the rules for its ATen operators.
May import torch and the modules of graph."""
