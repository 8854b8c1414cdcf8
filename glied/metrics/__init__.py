"""Metrics of captions: against references, by CLIP, and over a whole set of captions."""
