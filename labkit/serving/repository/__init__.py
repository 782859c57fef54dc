"""The model repository: its tensors and configurations, how it is written, and how any repository is checked."""
