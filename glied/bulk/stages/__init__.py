"""The stages that turn fetched images into rows; no Ray here."""
