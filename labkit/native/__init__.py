"""The CPU kernels in C++, through a plain C interface."""


def available() -> bool:
    """Whether the native library was built and runs on this CPU."""
    return False
