"""Training: the loop, its data order, and the trainers with and without Ray."""
