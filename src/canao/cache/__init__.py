"""The build cache: what the C compiler made, kept by content, checked before it is used, and of a
limited size. May import artifact and errors."""
