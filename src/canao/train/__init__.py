"""Training: data, metrics, the fine-tuned teacher, and students that inherit from it and are
distilled. May import model, artifact and errors; knows no compiler and no device."""
