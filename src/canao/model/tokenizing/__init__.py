"""A directory's tokenizer: its files, which are not trusted, are judged and then tried in a process
of its own with limits; and texts on which it must agree with Transformers. May import
model/inventory, artifact and errors."""
