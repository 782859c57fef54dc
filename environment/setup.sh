#!/usr/bin/env bash
# Make the course's Python environment in .venv; quiet when it is up to date. Safe to run again at any time.
#   PYTHON=python3.12 environment/setup.sh     picks the interpreter
#   EXTRAS=lab,gpu,graphs environment/setup.sh        installs what learners need, without the tools of the authors
#   TORCH_INDEX=URL environment/setup.sh       asks one more package index for torch: for example, one with builds for CPUs
# Progress goes to stderr: one line for each step and, while a step runs without a terminal, one line every 15 seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
NEEDED_MB=500 # free space that no step of the set-up can do without; a CUDA build of torch needs 6,000
if [ -f pyproject.toml ]; then # the whole course
    what=(--editable ".[${EXTRAS:-dev}]")
    made_from=(pyproject.toml setup.py labkit/native/build.py labkit/native/src/* labkit/serving/server/server_requirements.txt)
else # what learners get (`labkit release --course`)
    wheel=$(echo packages/labkit-*.whl)
    if [ ! -f "$wheel" ]; then
        echo "packages/ must hold one wheel of labkit; it holds: $(ls packages 2>/dev/null | tr '\n' ' ')" >&2
        exit 1
    fi
    what=("./$wheel[lab,gpu,graphs]")
    made_from=("$wheel")
fi
# The programs in .venv hold the path of this folder, so an environment in a folder that was moved is made again.
digest() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; } # macOS has shasum
wanted=$({ cat "${made_from[@]}" environment/constraints.txt environment/setup.sh && echo "${what[@]}" && pwd; } | digest)
if [ -x "$venv/bin/labkit" ] && [ "$(cat "$venv/.made-from" 2>/dev/null)" = "$wanted" ]; then
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
    asked=${PYTHON:-python3}
    if command -v "$asked" >/dev/null; then found="$asked is $({ "$asked" --version 2>&1 || true; } | sed -n 1p)"; else found="there is no $asked"; fi
    echo "labkit needs Python 3.11 or 3.12, and $found." >&2
    echo "Debian 12 and Ubuntu 24.04 have one (sudo apt-get install python3 python3-venv); if you have another one, name it: make env PYTHON=python3.12" >&2
    exit 1
fi

steps=5
number=0
step() {
    number=$((number + 1))
    echo "[$number/$steps] $*" >&2
}

free_mb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'; }

# Say that the disk is full, and end, if the course's folder or the folder for temporary files has no space for the packages.
stop_if_full() {
    local folder free
    for folder in "$PWD" "${TMPDIR:-/tmp}"; do
        free=$(free_mb "$folder")
        if ((free < NEEDED_MB)); then
            echo "The packages do not fit: the disk of $folder has $free MB left, and $NEEDED_MB MB are needed. Free some space, then run this again." >&2
            exit 1
        fi
    done
}

running=
if ! log=$(mktemp 2>/dev/null); then
    echo "The folder for temporary files, ${TMPDIR:-/tmp}, cannot be written: set TMPDIR to a folder of your own, then run this again." >&2
    exit 1
fi
trap '[ -z "$running" ] || kill "$running" 2>/dev/null; rm -f "$log" "$log.pip"' EXIT
trap 'exit 130' INT TERM

# Run a command. A terminal sees its output. Without one, the output goes to a file, and its last line is shown every 15 seconds.
with_signs_of_life() {
    if [ -t 2 ]; then
        "$@" >&2
        return
    fi
    local began=$SECONDS shown=$SECONDS status=0
    "$@" >"$log" 2>&1 &
    running=$!
    while kill -0 "$running" 2>/dev/null; do
        sleep 1
        if ((SECONDS - shown >= 15)); then
            shown=$SECONDS
            local last=$(tail -n 1 "$log" | cut -c 1-100)
            echo "      $((SECONDS - began)) s: ${last:-still at work}" >&2
        fi
    done
    wait "$running" || status=$?
    running=
    return "$status"
}

# Show the end of what a command without a terminal has said; with a terminal, it was seen.
last_words() { [ -t 2 ] || tail -n 40 "$log" >&2; }

# Run pip, which also writes a log of its own. If it fails, say in one sentence what to do.
pip() {
    local pips_log="$log.pip"
    rm -f "$pips_log"
    with_signs_of_life "$venv/bin/python" -m pip --disable-pip-version-check --log "$pips_log" "$@" && return
    stop_if_full
    if grep -qs 'No space left on device' "$log" "$pips_log"; then
        local temporary=${TMPDIR:-/tmp}
        echo "The packages do not fit: $(free_mb .) MB are left here, and $(free_mb "$temporary") MB for temporary files in $temporary (TMPDIR names another folder). Free some space, then run this again." >&2
    elif grep -qsE 'Retrying .*(NewConnectionError|ConnectTimeout|ProxyError|NameResolutionError)' "$log" "$pips_log"; then
        echo "pip cannot reach the package index. Connect this machine to the network (or tell pip your proxy: HTTPS_PROXY), then run this again." >&2
    else
        last_words
        echo "pip could not install a package; its last lines above say why. Run this again when that is mended." >&2
    fi
    exit 1
}
bar=$([ -t 2 ] || echo --progress-bar=off)

step "$venv with $("$python" --version)"
if [ ! -w . ]; then
    echo "The folder $PWD cannot be written: copy the course into a folder of your own, then run this again." >&2
    exit 1
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    stop_if_full
    if ! with_signs_of_life "$python" -m venv --clear "$venv"; then
        last_words
        echo "$python could not make an environment; on Debian and Ubuntu: sudo apt-get install python3-venv, then run this again." >&2
        exit 1
    fi
fi

# torch first and alone, so that all other packages are fitted to the build that pip finds.
step "torch (the first time: several minutes; 3 GB if pip finds no build for CPUs)"
pip install $bar --constraint environment/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
step "labkit, its CPU kernels and the other packages (the first time: several minutes)"
pip install $bar --constraint environment/constraints.txt "${what[@]}"

step "JupyterLab's settings"
mkdir -p "$venv/share/jupyter/lab/settings"
cp environment/jupyterlab_overrides.json "$venv/share/jupyter/lab/settings/overrides.json"
# nbgrader's menus and pages are for instructors; docs/gradebook.md says how to turn them on.
mkdir -p "$venv/etc/jupyter/labconfig"
cp environment/jupyterlab_page_config.json "$venv/etc/jupyter/labconfig/page_config.json"
nbgrader="$venv/etc/jupyter/jupyter_server_config.d/nbgrader.json"
if [ -f "$nbgrader" ]; then
    sed -i.bak 's/true/false/' "$nbgrader"
    rm -f "$nbgrader.bak"
fi

step "Triton Inference Server, for lab 04 and labkit serve (75 MB)"
if ! with_signs_of_life "$venv/bin/labkit" serve --install; then
    last_words
    echo "Everything else works without it; to try again: $venv/bin/labkit serve --install" >&2
fi

echo "$wanted" >"$venv/.made-from"
echo "Done: $("$venv/bin/labkit" --version 2>/dev/null || true) in $venv" >&2
