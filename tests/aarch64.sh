#!/usr/bin/env bash
# The suite on aarch64: cross-compiled, and run under user emulation.
#
#   tests/aarch64.sh [pytest arguments]     default: the tests of the core, listed below
#
# Needs root on Debian (it installs cross compiler and emulator where they are missing),
# or those packages; the Debian mirror; a package registry. Ends with 77 where they
# cannot be had. Nothing else of the machine is changed: the aarch64 Python lives in the
# cache folder, and no binary format is registered with the kernel.
#
#   PTEBATCH_CACHE    folder for Python, its packages and the build
#                     (default: ~/.cache/ptebatch)
#   DEBIAN_MIRROR     (default: the one that apt uses here)
set -euo pipefail
unset PYTHONPATH PYTHONHOME PTEBATCH_ROOT PTEBATCH_ISA
export PIP_DISABLE_PIP_VERSION_CHECK=1

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PTEBATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ptebatch}/aarch64
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -v -m1 security || true)}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
root=$cache/sysroot python=$cache/sysroot/usr/bin/python3 site=$cache/site

# Without arguments: what takes the core, and both copies of its loops, through all its ways.
core=(tests/{batch,mm,reference,layouts,simulate,vocabulary}
    tests/verify/test_{prim,golden,hardware,hardware_loops,hardware_traces}.py
    tests/snapshot/test_{rebuild_hardware,snapshot}.py tests/checker/test_checker.py)

# Cannot work under emulation, and are left out with any arguments:
without=(
    # they compile a module for the Python that runs them, and the compiler is the host's
    --deselect tests/house/test_package.py::test_a_third_partys_step_runs_like_the_one_it_repeats
    --deselect tests/house/test_package.py::test_a_third_partys_step_that_does_nothing_is_stopped
    --deselect tests/house/test_package.py::test_a_step_built_against_other_headers_is_refused
    --deselect tests/house/test_readme.py::test_the_compiled_strategy_is_built_and_registered
    --deselect tests/house/test_readme.py::test_the_python_and_the_cython_strategy_are_one
    # it reads page tables in /proc: those of the emulator, not of the program it runs
    --deselect tests/snapshot/test_procfs_live.py
)

say() { printf '\n== %s  [%d s]\n' "$1" "$SECONDS"; }
skip() { echo "skipped: $1" >&2; exit 77; }

install_missing() {
    local missing=() package
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || skip "this is not Debian"
    for package in gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static python3-venv ca-certificates; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || skip "missing packages: ${missing[*]}; install them, or be root"
    apt-get update -qq || skip "the Debian mirror cannot be reached, and these packages are missing: ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
        skip "these packages cannot be installed: ${missing[*]}"
}

# Debian's Python for arm64 and all it needs, unpacked and not installed; an apt state of its own
make_root() {
    local apt=$cache/apt deb
    [ -n "$mirror" ] || skip "apt names no mirror; set DEBIAN_MIRROR"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$root"
    echo "deb [arch=arm64 signed-by=$keyring] $mirror bookworm main" >"$apt/sources.list"
    : >"$apt/status"
    local own=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State=$apt" -o "Dir::State::status=$apt/status"
        -o "Dir::Cache=$apt" -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root)
    apt-get "${own[@]}" update || skip "the package index of $mirror cannot be read"
    apt-get "${own[@]}" install -y --download-only --no-install-recommends libpython3.11-dev python3.11 libstdc++6 >/dev/null ||
        skip "$mirror has no Python 3.11 for arm64"
    for deb in "$apt"/archives/*.deb; do dpkg -x "$deb" "$root"; done
    rm -rf "$apt"
    # A Python that starts like any other, by tests too: sys.executable is the script. The
    # emulator looks a path up below -L first.
    printf '#!/bin/sh\nexec qemu-aarch64-static -L %q -0 "$0" %q "$@"\n' "$root" "$root/usr/bin/python3.11" >"$python.new"
    chmod +x "$python.new"
    rm -f "$python"
    mv "$python.new" "$python"
}

# what the package and its tests need: pure tools for the host, wheels for aarch64
install_packages() {
    [ -x "$cache/host/bin/python" ] || python3 -m venv "$cache/host"
    local needs
    mapfile -t needs < <("$cache/host/bin/python" -c 'import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
for need in project["dependencies"] + project["optional-dependencies"]["test"]: print(need)' "$tree/pyproject.toml")
    "$cache/host/bin/pip" install -q meson ninja Cython
    [ -d "$site" ] || "$cache/host/bin/pip" install -q --target "$site" --only-binary=:all: --python-version 3.11 \
        --implementation cp --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 "${needs[@]}"
}

build_package() {
    cat >"$cache/cross.ini" <<INI
[binaries]
c = ['aarch64-linux-gnu-gcc', '-idirafter', '$root/usr/include']
strip = 'aarch64-linux-gnu-strip'
cython = '$cache/host/bin/cython'
python = '$python'

[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'aarch64'
endian = 'little'
INI
    local again=()
    [ ! -f "$cache/build/build.ninja" ] || again=(--reconfigure)
    PATH=$cache/host/bin:$PATH meson setup "${again[@]}" --cross-file "$cache/cross.ini" "$cache/build" "$tree" >"$cache/build.log" &&
        "$cache/host/bin/ninja" -C "$cache/build" >>"$cache/build.log" || { tail -n 30 "$cache/build.log" >&2; exit 1; }
}

run_tests() {
    export PTEBATCH_ROOT=$cache/build/pkg PYTHONPATH=$cache/build/pkg:$site PYTHONDONTWRITEBYTECODE=1
    cd "$tree"
    "$python" -c 'import platform, ptebatch, sys
print(sys.version, platform.machine(), f"the core: {ptebatch.batch.isa.ISA}", sep="\n")
assert platform.machine() == "aarch64"'
    [ $# -gt 0 ] || set -- "${core[@]}"
    "$python" -m pytest -p no:cacheprovider "${without[@]}" "$@"
}

main() {
    say "tools"
    mkdir -p "$cache"
    install_missing
    [ -x "$python" ] || make_root
    say "packages"
    install_packages
    say "cross build"
    build_package
    say "tests"
    run_tests "$@"
    say "done"
}

main "$@"
exit
