"""The model repository: its tensors and configurations, the writer, and the checker for any repository."""
