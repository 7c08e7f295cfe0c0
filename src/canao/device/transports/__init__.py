"""Ways to get files and commands to a machine. May import artifact and errors.py; knows no
library and no benchmark."""
