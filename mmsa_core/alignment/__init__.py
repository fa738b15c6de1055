"""What is asked of a pair of modalities."""
