"""Pictures of data, predictions and runs."""
