"""Files and requests of strangers: generated, seeded, and fed to the commands, which must refuse or use them."""
