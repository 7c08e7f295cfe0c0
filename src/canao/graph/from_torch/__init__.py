"""torch.export programs to the IR."""
