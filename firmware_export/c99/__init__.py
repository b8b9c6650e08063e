"""A trained model as C99: floating point and integers."""
