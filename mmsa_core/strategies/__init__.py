"""How a training step sees its data, and how predictions are made of the model."""
