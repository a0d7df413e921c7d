"""Published data sets, folders, manifests, parquet and the hub: found, checked, and cut into streams."""
