"""How task losses are balanced."""
