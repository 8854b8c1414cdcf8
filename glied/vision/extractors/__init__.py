"""Region extractors, which turn images into regions."""
