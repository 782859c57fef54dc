"""Predicts memory, latency, throughput and cost of a GPT on given GPUs, before it is deployed.

The predictions come from counts of bytes and FLOPs, and from a few measured efficiencies. `shape` describes the GPT,
`catalogue` describes the hardware, and `deployment` describes how the GPT is divided among the GPUs. `memory` counts bytes per
rank, `latency` computes seconds, and `fit` finds the efficiencies from measurements. This package only does arithmetic; it runs
no model.
"""
