"""What a search may propose, and what is known of each candidate. May import model/arch.py,
artifact/budgets.py, artifact/reading.py and errors.py; knows no study, no controller, no device."""
