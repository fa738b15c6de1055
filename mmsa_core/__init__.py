"""The model, its plug-ins, data, metrics and training loop, in PyTorch alone."""
