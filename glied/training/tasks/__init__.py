"""What can be trained, one task per module, and what several of them use."""
