"""The command line: a command's words parsed, its progress and its results shown. May import
everything; nothing but __main__.py imports it."""
