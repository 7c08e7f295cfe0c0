"""A tokenizer's files before they are trusted: what tokenizer.json may hold, what it does to texts
in a process of its own with limits, and the texts on which it must agree with Transformers.
May import artifact, errors and the inventory's tables."""
