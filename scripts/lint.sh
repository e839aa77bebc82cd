#!/usr/bin/env bash
# All static checks; each runs, whatever the others find. Called by "make lint" with the C sources and headers.
set -uo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob
shim=(src/*.c src/calls/*.c)
bin=${VENV:-.venv}/bin
failed=()

check() { # check NAME COMMAND...
    local name=$1
    shift
    echo "lint: $name"
    "$@" || failed+=("$name")
}

tidy() { # the compilation database of a build without Python knows the shim's flags
    cmake --preset debug -B build/lint -DITR_TESTS=OFF -DITR_PYTHONS= >/dev/null &&
        printf '%s\n' "${shim[@]}" | grep -v '_darwin\.c$' |
        xargs -P "${JOBS:-$(nproc)}" -n 1 clang-tidy -p build/lint --quiet 2>/dev/null
}

# Of the shim only: in the stub it takes CPython's inline functions apart, and believes that Py_XDECREF() drops NULL.
analyze() {
    printf '%s\n' "${shim[@]}" | grep -v '_darwin\.c$' |
        xargs -P "${JOBS:-$(nproc)}" -n 1 gcc -std=c11 -D_GNU_SOURCE -Iinclude -Isrc -O1 -Wall -fanalyzer -Werror -c -o /dev/null
}

cpp() {
    cppcheck --quiet --std=c11 --language=c -D_GNU_SOURCE -D__linux__ -Iinclude -Isrc -j "${JOBS:-$(nproc)}" \
        --enable=warning,performance,portability --inline-suppr --error-exitcode=1 --suppress=missingInclude "$@"
}

cppcheck_shim() { cpp "${shim[@]}"; }

# Without CPython's headers, which take it too long: it has to be told which version it is, and what returns.
cppcheck_stub() {
    local version bad=0
    for version in 0x03090000 0x030B0000 0x030D0000; do
        cpp -DPY_VERSION_HEX=$version '-DPy_RETURN_NONE=return Py_None' '-DPy_RETURN_TRUE=return Py_True' \
            '-DPy_RETURN_FALSE=return Py_False' src/python/*.c || bad=1
    done
    return $bad
}

check ruff "$bin/ruff" check
check 'ruff format' "$bin/ruff" format --check --quiet
check mypy "$bin/mypy" --cache-dir build/.mypy_cache
check links "$bin/python" scripts/check_links.py
check locks "$bin/python" scripts/locks.py
check clang-format clang-format --dry-run -Werror "$@"
check clang-tidy tidy
check 'gcc -fanalyzer' analyze
check cppcheck cppcheck_shim
check 'cppcheck, stub' cppcheck_stub

if [ ${#failed[@]} -gt 0 ]; then
    echo "lint: failed: $(IFS=,; echo "${failed[*]}")"
    exit 1
fi
echo 'lint: passed'
