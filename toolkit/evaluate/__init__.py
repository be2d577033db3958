"""How good pictures are: judges, the picture sheet, and what was chosen on validation pairs."""
