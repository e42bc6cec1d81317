"""The operator registry."""
