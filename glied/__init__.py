"""GLIED on Ray: bulk image captioning from object storage, and the training of its captioner."""

__version__ = "0.1.0"
