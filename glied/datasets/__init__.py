"""Data on disk: the feature store and caption files in the COCO form."""
