"""What a search leaves behind to go on from: its directory, its database, and who works on it. May
import search/candidates, search/controllers, search/latency, search/options.py, train/options.py,
model, artifact, defaults.py and errors.py; trains nothing and measures nothing."""
