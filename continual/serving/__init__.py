"""A model file behind HTTP: uploads are checked, answered in batches, and the file may change meanwhile."""
