"""CLIP: the model, how it reads images and texts, its scores, and the grammar head."""
