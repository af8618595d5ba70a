"""Functions of pytrees that know nothing of Modules."""
