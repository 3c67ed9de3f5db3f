#!/usr/bin/env bash
# Sees to it that a Debian package is there: scripts/system_libraries.sh PACKAGE... -- COMMAND...
# Installs the packages through apt when COMMAND fails and apt may be used, else prints the one command to type.
set -euo pipefail

packages=()
while [ "$1" != "--" ]; do
    packages+=("$1")
    shift
done
shift

if "$@" >/dev/null 2>&1; then
    exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        as_root=(false)
    fi
fi

if ! command -v apt-get >/dev/null; then
    printf 'Missing system libraries: `%s` fails.\nInstall what your system calls %s and try again.\n' \
        "$*" "${packages[*]}" >&2
    exit 1
fi
if [ "${as_root[*]:-}" = false ]; then
    printf 'Missing system libraries: `%s` fails. Type\n\n    sudo apt-get install -y %s\n\nand try again.\n' \
        "$*" "${packages[*]}" >&2
    exit 1
fi

echo "Installing ${packages[*]} through apt"
export DEBIAN_FRONTEND=noninteractive
# A package list that cannot be refreshed is not yet a reason to stop: the packages may be in the present one.
"${as_root[@]}" apt-get update -qq || echo "apt-get update failed, going on with the present package list" >&2
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
# Its message, should it still fail, is the one to read.
"$@"
