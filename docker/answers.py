"""A health probe for the models of a server.

The program exits with status 0 if each model answers the probe's request or, in the meantime, works on other requests.
Otherwise it exits with status 1. Its requests have the server's probe mark, so labkit's metrics do not count them.

python docker/answers.py [MODEL...]     probes these models of the server in this container; without names, probes gptj
"""

import sys

from labkit.errors import NotAvailable
from labkit.serving.server.probes import Probes
from labkit.serving.server.server_folder import mark_at

GRPC, METRICS = "127.0.0.1:8001", "127.0.0.1:8002"

probes = Probes(GRPC, METRICS, lambda: mark_at(GRPC))
for model in sys.argv[1:] or ["gptj"]:
    try:
        answers = probes.answers(model)
    except NotAvailable as error:
        sys.exit(str(error))
    if not answers:
        sys.exit(f"{model} does not answer")
