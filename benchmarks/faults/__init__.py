"""Where stateful layers go wrong: the same small tasks in five libraries."""
