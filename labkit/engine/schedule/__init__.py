"""Which sequences the next step computes, and which slots of the cache they hold. No tensors, no model, no text."""
