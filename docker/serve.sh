#!/usr/bin/env bash
# Runs inside the server's image: serves a model to everybody who can reach the container's ports.
#   serve.sh MODEL [OPTION...]     options for `labkit serve`
set -euo pipefail
exec labkit serve "$@" --address 0.0.0.0
