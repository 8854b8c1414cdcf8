"""The forms of input: how they are listed, and how an image's bytes are fetched."""
