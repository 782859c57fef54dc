"""The models of lab 04, which run in Triton's Python backend and call a learner's function; only `batched` may load torch."""
