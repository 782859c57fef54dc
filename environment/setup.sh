#!/usr/bin/env bash
# Make the course's Python environment in .venv, or see that it is up to date. Safe to run again at any time.
#   PYTHON=python3.12 environment/setup.sh     picks the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
wanted=$(cat pyproject.toml setup.py labkit/native/build.py labkit/native/src/* labkit/serving/server/server_requirements.txt environment/constraints.txt environment/setup.sh | sha256sum | cut -d' ' -f1)
if [ -x "$venv/bin/labkit" ] && [ "$(cat "$venv/.made-from" 2>/dev/null)" = "$wanted" ]; then
    echo "The environment in $venv is up to date."
    exit 0
fi

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
    if fits "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "labkit needs Python 3.11 or 3.12; found ${PYTHON:-python3}: $("${PYTHON:-python3}" --version 2>&1 || true)." >&2
    echo "On Debian 12 or Ubuntu 24.04: sudo apt-get install python3 python3-venv, or name one: make env PYTHON=python3.12" >&2
    exit 1
fi

echo "[1/4] $venv with $("$python" --version)"
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -m venv --clear "$venv" >/tmp/labkit-venv.$$ 2>&1; then
        cat /tmp/labkit-venv.$$ >&2
        echo "Python's venv module is incomplete: sudo apt-get install python3-venv, then run this again." >&2
        exit 1
    fi
    rm -f /tmp/labkit-venv.$$
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
quiet=$([ -t 1 ] || echo --quiet) # a terminal sees pip's progress bars, a log does not need them
echo "[2/4] packages (the first time: several minutes and, without a CPU build of torch at hand, 3 GB)"
# torch first and alone, so that the build pip finds is the one everything else is fitted to.
pip install $quiet --constraint environment/constraints.txt torch
pip install $quiet --constraint environment/constraints.txt --editable '.[dev]'

echo "[3/4] JupyterLab's settings"
mkdir -p "$venv/share/jupyter/lab/settings"
cp environment/jupyterlab_overrides.json "$venv/share/jupyter/lab/settings/overrides.json"

echo "[4/4] Triton Inference Server, for lab 04 and labkit serve (75 MB)"
"$venv/bin/labkit" serve --install || echo "Everything else works without it; to try again: $venv/bin/labkit serve --install" >&2

echo "$wanted" >"$venv/.made-from"
echo "Done: $venv/bin/labkit $("$venv/bin/labkit" --version 2>/dev/null || true)"
