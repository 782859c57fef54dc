"""Names that only lab 01 imports: a simulated device that runs its work asynchronously, and drawings."""

from labkit.exercises.async_device import AsyncDevice
from labkit.exercises.pictures import lab01 as pictures

__all__ = ["AsyncDevice", "pictures"]
