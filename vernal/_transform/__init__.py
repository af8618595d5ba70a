"""JAX's transformations, for functions of arbitrary pytrees."""
