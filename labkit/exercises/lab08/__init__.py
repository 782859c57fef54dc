"""Lab 08, Sizing a deployment: memory, batch, link, latency, choice and price of a model on GPUs that are not here."""

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
