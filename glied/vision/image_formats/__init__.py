"""Structure of image files by format: which parts affect the pixels, and the decoding work."""
