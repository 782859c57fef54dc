"""Runs a function of yours on several processes: sends its source, returns its results, and keeps a ledger. Knows no model."""

from labkit.launch.launcher import Each, Launched, RankRaisedError, launch, shut_down

__all__ = ["Each", "Launched", "RankRaisedError", "launch", "shut_down"]
