"""The tasks that can be trained, one per module, and what they share."""
