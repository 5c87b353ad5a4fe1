#!/usr/bin/env bash
# Makes the environment in which `make` runs everything: tools/environment.sh VENV STAMP
#
# The stamp is written when all that pyproject.toml asks for is there, and removed before anything is installed. An
# environment of ours without a stamp is therefore a half-finished one (a killed download, a full disk) and is built
# again from nothing. An environment of somebody else is never cleared, and left alone where it has everything.
set -euo pipefail

venv=$1
stamp=$2

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local found="" candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        command -v "$candidate" >/dev/null || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            found+=" $candidate ($("$candidate" -V 2>&1 || true))"
        elif ! "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            found+=" $candidate (without the venv module; on Debian and Ubuntu: apt install $candidate-venv)"
        else
            command -v "$candidate"
            return
        fi
    done
    say "make: Python 3.11 or newer with the venv module is needed. Found:${found:- none}."
    return 1
}

# Exit status 0 where every requirement of Isobit and of its extra `dev` is installed in a version that is allowed, 9
# with the list on stdout where one is not. Any other status is a failure of the check: no reason to install.
has_everything() {
    "$venv/bin/python" - <<'PYTHON'
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version

try:
    from packaging.requirements import Requirement
except ImportError:
    print("packaging (installed: nothing)")
    sys.exit(9)
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
lacking = []
for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]]):
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        installed = "nothing"
    if installed == "nothing" or not requirement.specifier.contains(installed, prereleases=True):
        lacking.append(f"{requirement} (installed: {installed})")
print("\n".join(lacking))
sys.exit(9 if lacking else 0)
PYTHON
}

mkdir -p "$(dirname "$stamp")"
if [ "$venv" = .venv ]; then
    if [ ! -e "$stamp" ]; then
        python=$(find_python)
        say "make: creating .venv with $("$python" -V) and installing (once; torch alone is several GB to download)"
        "$python" -m venv --clear .venv
    fi
elif [ ! -x "$venv/bin/python" ]; then
    say "make: VENV=$venv holds no bin/python. Make it first (python3 -m venv $venv), or leave VENV out."
    exit 1
else
    status=0
    lacking=$(has_everything) || status=$?
    case $status in
        0) touch "$stamp" && exit ;;
        9) say "make: VENV=$venv lacks, and now gets:" && say "$lacking" ;;
        *) say "make: cannot tell what VENV=$venv holds" && exit 1 ;;
    esac
fi

rm -f "$stamp"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
touch "$stamp"
