"""Labelled images from the forms people have them in: published data sets, folders, manifests, parquet."""
