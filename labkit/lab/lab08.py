"""Names that only lab 08 imports: tables of plans, figures, measurements of this machine, the planner's page, and drawings."""

from labkit.exercises.lab08 import figures, own_machine, planner_page, plans
from labkit.exercises.pictures import lab03, lab08
from labkit.planning.catalogue import GPUS, LINKS

__all__ = ["GPUS", "LINKS", "figures", "lab03", "lab08", "own_machine", "planner_page", "plans"]
