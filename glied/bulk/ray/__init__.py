"""The stream of a run on Ray Data."""
