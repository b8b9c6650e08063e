"""A trained model as C99, in floating point or in integers, and the means to compile and run it."""
