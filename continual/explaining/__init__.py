"""Why an image gets its answer: which places of it count, which classes and which images it is like."""
