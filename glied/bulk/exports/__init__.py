"""Exporting the committed rows of a caption run to other formats."""
