"""Data sets, splits and batches, checked against the program's types."""
