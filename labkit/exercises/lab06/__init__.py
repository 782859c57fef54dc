"""Lab 06, Sparsity and distillation: fewer weights, fewer layers, and a small model that guesses tokens for a large one."""

from labkit.exercises.lab06 import accept, distillation, initialisation, mask, recovery, storage, stored_bytes, wanda

EXERCISES = (
    *mask.EXERCISES,
    *wanda.EXERCISES,
    *storage.EXERCISES,
    *stored_bytes.EXERCISES,
    *recovery.EXERCISES,
    *distillation.EXERCISES,
    *initialisation.EXERCISES,
    *accept.EXERCISES,
)
