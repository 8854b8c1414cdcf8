"""What a caption is worth: rewards for training and metrics for evaluation."""
