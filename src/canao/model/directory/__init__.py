"""A model directory: fetched, held to what it may ask for, and loaded; what it says of its task and
of how texts are continued. May import model/inventory, model/sentence, model/tokenizing, the
classes of models (arch.py, blocks.py, encoder.py), artifact, defaults and errors."""
