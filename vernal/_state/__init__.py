"""State: the values of a model that change by being used, kept outside of it."""
