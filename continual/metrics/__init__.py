"""What a benchmark measures, one file a family of metrics."""
