"""The options of each command, as typer parses them. What commands do lies in cli/, and is imported
once they are called, so that help is shown at once. May import everything."""
