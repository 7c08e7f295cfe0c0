"""ONNX files -> Graph: the file is checked, then walked over, with a rule for each operator. May
import graph, artifact/reading.py, defaults and errors, and onnx.

load.py      the file, which is not trusted -> a checked model and its tensors
values.py    what is known at compile time: shapes, positions, masks
builder.py   what rules work with; inputs.py what the graph's inputs stand for
rules.py     one table of operators; views.py and parts.py those that only
             move elements, attention.py attention
importer.py  the walk over the nodes; refused.py what it says of those it cannot import
"""
