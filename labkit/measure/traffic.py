"""Defines the type for counts of memory traffic: bytes read and bytes written. Other modules do the counting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """Bytes read and bytes written."""

    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def total(self) -> int:
        """The sum of the bytes read and the bytes written."""
        return self.bytes_read + self.bytes_written
