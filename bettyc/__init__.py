"""bettyc, a compiler for multilevel optimization."""

__version__ = "0.1.0"
