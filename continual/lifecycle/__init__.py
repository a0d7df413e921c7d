"""A model file that lives for years: what is new in a folder, what was seen, what broke, its versions."""
