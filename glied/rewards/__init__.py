"""Rewards of captions in training, and what samples are compared with."""
