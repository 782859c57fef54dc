"""The built-in model `gptj-tiny`, the text that it was trained on, and the training script."""
