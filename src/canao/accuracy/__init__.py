"""How good a compiled library is at its task, on labelled text, how to compile one that loses no
more against float32 than was allowed, and whether it computes that on a device. May import train,
compiler and what is below them."""
