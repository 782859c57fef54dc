"""Lab 08, Sizing a deployment: plan memory, batch, link, latency and price of a model on GPUs that you do not have."""

from labkit.exercises.lab08 import choice, cost, latency, link, memory, turning

EXERCISES = (
    *memory.EXERCISES,
    *turning.EXERCISES,
    *link.EXERCISES,
    *latency.EXERCISES,
    choice.CHOOSE_PLAN,
    *cost.EXERCISES,
    choice.DEFEND,
)
