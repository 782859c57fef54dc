"""Sizes a deployment before it exists: memory, latency, throughput and cost of a GPT on given GPUs.

The model is physics with a few measured efficiencies. `shape` describes the model, `catalogue` the hardware, `deployment` how
the model is divided. `memory` counts bytes per rank, `latency` computes seconds, and `fit` finds the efficiencies from
measurements. This package computes with plain numbers. It runs no model.
"""
