"""Models of lab 04's servers, torch-free but for one: what runs in Triton's Python backend around a learner's function."""
