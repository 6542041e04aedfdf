#!/usr/bin/env bash
# The suite on a free-threaded Python, where nothing but the core's own guards keeps
# threads apart. No distribution ships one, so it is built from Debian's source package.
#
#   tests/freethreaded.sh [pytest arguments]
#
# Needs root on Debian (it installs a compiler and headers where they are missing), or
# those packages; the Debian mirror; a package registry. Ends with 77 where they cannot
# be had. About 10 minutes the first time, the length of the suite afterwards.
#
#   PTEBATCH_CACHE    folder for Python, its environment and the build
#                     (default: ~/.cache/ptebatch)
#   FREETHREADED      a free-threaded python to use instead of building one
#   PYTHON_SOURCES    Debian source packages, the first to be had (default: python3.14 python3.13)
#   DEBIAN_MIRROR     (default: the one that apt uses here)
set -euo pipefail
unset PYTHONPATH PYTHONHOME PYTHON_GIL PTEBATCH_ROOT PTEBATCH_ISA
export PIP_DISABLE_PIP_VERSION_CHECK=1

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PTEBATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ptebatch}/freethreaded
sources=${PYTHON_SOURCES:-python3.14 python3.13}
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -v -m1 security || true)}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf '\n== %s  [%d s]\n' "$1" "$SECONDS"; }
skip() { echo "skipped: $1" >&2; exit 77; }

# what the interpreter is built with; ssl is for pip, ffi for ctypes, which NumPy imports
install_missing() {
    local missing=() package
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || skip "this is not Debian; set FREETHREADED"
    for package in gcc make libc6-dev xz-utils pkg-config libssl-dev zlib1g-dev libffi-dev ca-certificates; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || skip "missing packages: ${missing[*]}; install them, or be root"
    apt-get update -qq || skip "the Debian mirror cannot be reached, and these packages are missing: ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
        skip "these packages cannot be installed: ${missing[*]}"
}

# A signed source package, with an apt state of its own. The mirror may lag behind its
# index, so every version of every wanted package is tried, the newest first.
fetch_source() {
    local apt=$cache/apt suite package version
    [ -n "$mirror" ] || skip "apt names no mirror; set DEBIAN_MIRROR"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    for suite in sid trixie; do echo "deb-src [signed-by=$keyring] $mirror $suite main"; done >"$apt/sources.list"
    local own=(-qq -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt" -o "Dir::Etc::sourcelist=$apt/sources.list"
        -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root)
    apt-get "${own[@]}" update || skip "the source index of $mirror cannot be read"
    for package in $sources; do
        for version in $(apt-cache "${own[@]}" showsrc "$package" | sed -n 's/^Version: //p' | sort -Vru); do
            rm -rf "$cache/source"
            mkdir "$cache/source"
            (cd "$cache/source" && apt-get "${own[@]}" source --download-only "$package=$version") || continue
            mkdir -p "$cache/tree"
            tar -C "$cache/tree" --strip-components=1 -xf "$cache"/source/*.orig.tar.xz
            return
        done
    done
    skip "$mirror has no source of $sources"
}

build_python() {
    say "sources of one of $sources"
    install_missing
    fetch_source
    say "building it --disable-gil; log in $cache/python.log"
    (cd "$cache/tree" && ./configure -q --disable-gil --prefix="$cache/python" --disable-test-modules &&
        nice make -s -j"$(nproc)" && make -s install) >"$cache/python.log" 2>&1 ||
        { tail -n 30 "$cache/python.log" >&2; exit 1; }
    rm -rf "$cache/tree"
}

# the environment: what the suite needs, and the tree in a build folder
build_package() {
    [ -x "$cache/venv/bin/python" ] || "$python" -m venv "$cache/venv"
    local needs
    mapfile -t needs < <("$cache/venv/bin/python" -c 'import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
for need in project["dependencies"] + project["optional-dependencies"]["test"]: print(need)' "$tree/pyproject.toml")
    # the newest NumPy may have no wheel for it any more, an older one has
    "$cache/venv/bin/pip" install -q --prefer-binary "${needs[@]}"
    export PATH=$cache/venv/bin:$PATH
    local again=()
    [ ! -f "$cache/build/build.ninja" ] || again=(--reconfigure)
    meson setup "${again[@]}" "$cache/build" "$tree" >"$cache/build.log" && ninja -C "$cache/build" >>"$cache/build.log" ||
        { tail -n 30 "$cache/build.log" >&2; exit 1; }
}

run_tests() {
    export PTEBATCH_ROOT=$cache/build/pkg PYTHONPATH=$cache/build/pkg PYTHONDONTWRITEBYTECODE=1
    cd "$tree"
    # an extension that is not ready for it would switch the GIL back on, with a warning
    python -W error -c 'import pkgutil, sys, ptebatch
for room in pkgutil.walk_packages(ptebatch.__path__, "ptebatch."):
    if not room.name.endswith("__main__"): __import__(room.name)
assert not sys._is_gil_enabled()
print(sys.version, "the GIL is off with all of ptebatch and NumPy loaded", sep="\n")'
    say "tests"
    python -m pytest -p no:cacheprovider "$@"
}

main() {
    mkdir -p "$cache"
    python=${FREETHREADED:-$cache/python/bin/python3}
    [ -x "$python" ] || command -v "$python" >/dev/null || build_python
    "$python" -c 'import sysconfig; raise SystemExit(not sysconfig.get_config_var("Py_GIL_DISABLED"))' ||
        { echo "$python is not free-threaded" >&2; exit 1; }
    say "package"
    build_package
    run_tests "$@"
    say "done"
}

main "$@"
exit
