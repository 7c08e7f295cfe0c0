"""What lies in a model directory and what it means: every file, and every entry of a settings file,
is used, is known to be without effect, or is refused by name. Tables of entries, one module for
each kind of file, and the inventory that applies them. May import artifact/reading.py and
errors."""
