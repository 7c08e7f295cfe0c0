"""How a backend runs each form of kernel: its legality, plans, scratch memory and work. May import
schedule and what is below it; text is written in emit."""
