"""The errors a user of labkit can meet; each message says what was given, what is accepted and what to do."""


class LabkitError(Exception):
    """Anything labkit refuses or fails at; the command line prints its message and exits with status 1."""


class InvalidRequest(LabkitError, ValueError):
    """A value given by the user is not acceptable; the command line exits with status 2."""


class CheckpointError(LabkitError):
    """Weights or their files are missing, short, misshapen, corrupt or not a number."""


class InsufficientResources(LabkitError):
    """The machine has too little disk, host memory or device memory for what was asked."""


class NotAvailable(LabkitError):
    """This machine lacks what the call needs: a GPU, an optional package, a server, the network."""


class RankFailed(LabkitError):
    """A rank of a distributed run raised, ended or stopped answering; the message names it, its host, step and cause."""


class RequestFailed(LabkitError):
    """One request failed in a step of the engine and was ended, the others go on; the message names it and the cause."""


THE_LIMIT = "which is the limit"
"""Words of every `Overloaded`: over the network only the words tell it from a server that is gone."""


class Overloaded(LabkitError):
    """A server has as much to do as its limit, which the message names, allows; ask again later."""


class Cancelled(LabkitError):
    """A request ended before its text did: its client has gone, or its deadline has passed."""


class DeadlinePassed(Cancelled):
    """A request was not done in the time that it, or any request to this server, is given; the message says which."""
