"""Reading, checking, splitting and planting data."""
