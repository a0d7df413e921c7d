"""Fine-tuning a wrapped model."""
