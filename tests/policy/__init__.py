"""Laws about the code itself. Each file holds one law, and a proof that it can fail."""
