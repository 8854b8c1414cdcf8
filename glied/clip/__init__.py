"""CLIP: model, preprocessing, text encoder, scores, and the grammar head."""
