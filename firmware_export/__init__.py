"""A trained network in the forms that run elsewhere."""
