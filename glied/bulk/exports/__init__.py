"""The committed units of a run in other forms."""
