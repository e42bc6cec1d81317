"""The rows of the registry, one file per family; each file holds one tuple, `CODES`."""
