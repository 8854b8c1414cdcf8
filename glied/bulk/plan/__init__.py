"""The plan of a run: every input once, divided into units."""
