"""Data on disk: the feature store, caption files in the COCO form, and how both are come by."""
