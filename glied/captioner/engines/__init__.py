"""Captioners that others trained, behind one interface: CoCa, Hugging Face models and HTTP endpoints."""
