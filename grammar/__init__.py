"""The language: its grammar, the parser, the syntax tree, and the formatter."""
