"""A health probe for the models of a server.

It exits with status 0 if each model answers a real request, or answers other requests in the meantime; otherwise with status 1.

python docker/answers.py [MODEL...]     models of the server in this container; gptj if left out
"""

import sys

from labkit.errors import NotAvailable
from labkit.serving.server.probes import Probes

probes = Probes("127.0.0.1:8001")
for model in sys.argv[1:] or ["gptj"]:
    try:
        answers = probes.answers(model)
    except NotAvailable as error:
        sys.exit(str(error))
    if not answers:
        sys.exit(f"{model} does not answer")
