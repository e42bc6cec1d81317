"""From the syntax tree to the model: names, types, formulas. One file per concern."""
