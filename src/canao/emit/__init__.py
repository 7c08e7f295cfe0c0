"""Text of kernels, from a Schedule, which has decided everything; what all languages share is here.
May import lower and what is below it."""
