"""Region extractors: images in, regions out."""
