"""What the package knows of Ray clusters: joining or starting one, and its room."""
