"""Names that only lab 07 imports: graphs of gptj-tiny, comparisons of compilers, parts on a server, figures and drawings."""

from labkit.exercises.lab07 import compilers, figures, real_graphs, served_parts
from labkit.exercises.pictures import lab03
from labkit.exercises.pictures import lab07 as pictures
from labkit.host_cores import usable_cores

__all__ = ["compilers", "figures", "lab03", "pictures", "real_graphs", "served_parts", "usable_cores"]
