"""What Sentence-Transformers and SetFit add to a model: the modules after it, their settings, and
both as part of the model. May import model/inventory, artifact/reading.py and errors."""
