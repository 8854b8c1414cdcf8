"""Bulk captioning: manifest, units, chunks, stages, commit records (DESIGN section 6)."""
