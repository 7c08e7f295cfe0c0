"""What a command does: its words parsed, its progress and its results shown."""
