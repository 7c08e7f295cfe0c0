"""Who proposes the next candidate, each as an Optuna sampler. May import search/candidates and
errors.py; takes no time and trains nothing."""
