#!/usr/bin/env bash
# Runs inside the image: copies missing notebooks, and course.toml if there is one, to the volume, then starts JupyterLab there.
# In a session of a JupyterHub, which sets JUPYTERHUB_API_TOKEN, it starts the hub's kind of JupyterLab instead, and copies no
# solutions. They are still in the image: docs/course_session.md says what follows from this.
# Existing files are never overwritten. A notebook that the learner has moved or deleted is copied again at the next start.
#   start.sh [OPTION...]     options for `labkit lab`
set -euo pipefail
image=/opt/course
course=/home/learner/course

if [ ! -w "$course" ]; then
    echo "$course is not writable for user $(id -u): use a named volume (-v labkit-course:$course), or make that user the" >&2
    echo "owner of the mounted folder: sudo chown -R $(id -u) FOLDER" >&2
    exit 1
fi

offered=("$image"/labs/*.ipynb "$image"/labs/course.toml)
if [ -z "${JUPYTERHUB_API_TOKEN:-}" ]; then
    offered+=("$image"/solutions/*.ipynb)
fi
for notebook in "${offered[@]}"; do
    mine=$course/${notebook#"$image"/}
    if [ -e "$notebook" ] && [ ! -e "$mine" ]; then
        mkdir -p "$(dirname "$mine")"
        cp "$notebook" "$mine.part" # an interrupted copy must not look like a notebook
        mv "$mine.part" "$mine"
    fi
done

# After a killed container is restarted, the record of its old server may name a process id that belongs to this process.
rm -f ~/.local/share/jupyter/runtime/jpserver-*

if [ -n "${JUPYTERHUB_API_TOKEN:-}" ]; then
    exec jupyterhub-singleuser --ServerApp.root_dir="$course" "$@"
fi
exec labkit lab --course "$course" --ip 0.0.0.0 --no-browser "$@"
