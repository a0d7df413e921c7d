"""What is remembered instead of images: class statistics, Gram sums, prototypes."""
