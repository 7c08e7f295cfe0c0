"""How good a compiled library is at its task, on labelled text, and how to compile one that loses
no more against float32 than was allowed. May import train, compiler and what is below them."""
