"""What a student has of its teacher before it learns: which heads, units, dimensions and tokens it
keeps, how much of the teacher is lost with the others, and the weights. May import train/teacher,
train/engine, train/tasks, train/records.py, train/data.py, model, artifact and errors."""
