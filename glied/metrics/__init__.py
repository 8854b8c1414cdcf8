"""Caption metrics: reference-based metrics, CLIP metrics, and diversity of a set of captions."""
