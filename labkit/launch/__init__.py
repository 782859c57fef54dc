"""Runs your own function on several processes: sends its source, returns its results, and records its collectives in a ledger.

This package also starts, watches and ends the processes of ranks for `labkit.parallel`. The package knows nothing about models.
"""

from labkit.launch.launcher import launch, shut_down, start
from labkit.launch.outcome import Launched, RankRaisedError
from labkit.launch.team import Each

__all__ = ["Each", "Launched", "RankRaisedError", "launch", "shut_down", "start"]
