"""Merge the modalities."""
