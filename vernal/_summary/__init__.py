"""What a model is made of, and what a call of it costs."""
