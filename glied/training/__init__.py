"""Training: losses, plain loop pieces (`steps`, `loading`), and the Ray Train driver (`trainer`)."""
