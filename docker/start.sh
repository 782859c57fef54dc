#!/usr/bin/env bash
# Inside the image: give the volume the notebooks that it lacks, then start JupyterLab on it. What is there is never
# overwritten; a notebook that the learner moves away or deletes comes back fresh at the next start.
#   start.sh [OPTION...]     options for `labkit lab`
set -euo pipefail
image=/opt/course
course=/home/learner/course

if [ ! -w "$course" ]; then
    echo "$course cannot be written by user $(id -u): use a named volume (-v labkit-course:$course), or give the folder" >&2
    echo "that is mounted there to that user: sudo chown -R $(id -u) FOLDER" >&2
    exit 1
fi

for notebook in "$image"/labs/*.ipynb "$image"/solutions/*.ipynb; do
    mine=$course/${notebook#"$image"/}
    if [ -e "$notebook" ] && [ ! -e "$mine" ]; then
        mkdir -p "$(dirname "$mine")"
        cp "$notebook" "$mine.part" # so that a copy that is cut short is not taken for a notebook
        mv "$mine.part" "$mine"
    fi
done

# A container that was killed and is started again: its old server's record names a process number that now is ours.
rm -f ~/.local/share/jupyter/runtime/jpserver-*

exec labkit lab --course "$course" --ip 0.0.0.0 --no-browser "$@"
