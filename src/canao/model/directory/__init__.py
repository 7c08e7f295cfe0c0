"""A model directory: fetched, held to what it may ask for, and loaded; what it says of its task and
of how texts are continued. May import model/inventory, model/sentence, model/tokenizing,
model/arch.py, model/blocks.py, model/encoder.py, artifact, defaults and errors."""
