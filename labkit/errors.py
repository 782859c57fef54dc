"""The errors that a user of labkit can get. Each message says what was given, what is accepted and what to do."""


class LabkitError(Exception):
    """The base class of labkit's errors. The command line prints the message and exits with status 1."""


class InvalidRequest(LabkitError, ValueError):
    """The user gave a value that is not accepted; the command line exits with status 2."""


class CheckpointError(LabkitError):
    """Weights or their files are missing, truncated, of the wrong shape, corrupt or NaN."""


class InsufficientResources(LabkitError):
    """The machine has too little disk, host memory or device memory for the request."""


class NotAvailable(LabkitError):
    """This machine lacks something that the call needs: a GPU, an optional package, a server, the network."""


class RankFailed(LabkitError):
    """A rank raised an error, exited or stopped answering; the message names the rank, its host, the step and the cause."""


class RequestFailed(LabkitError):
    """One request failed in a step of the engine and was ended; other requests continue.

    The message names the request and the cause.
    """


THE_LIMIT = "which is the limit"
"""Every message of `Overloaded` contains these words.

From these words a client knows that the server runs but is overloaded.
"""


class Overloaded(LabkitError):
    """A server has reached one of its limits. The message names the limit, and the request can be sent again later."""


class Cancelled(LabkitError):
    """A request was ended before its text was complete: its client has gone, or its deadline has passed."""


class DeadlinePassed(Cancelled):
    """A request took longer than its own time limit or the server's limit; the message says which limit it was."""
