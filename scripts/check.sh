#!/usr/bin/env bash
# Build for every interpreter found and run all tests. Every step runs, whatever the others find; the exit status and
# the closing lines say whether all was well.
#
#   PYTHONS="3.9 3.13.0-shared"   only these interpreters
#   ITR_SID=1                     with Debian sid's interpreters too (scripts/sid.sh makes its root when there is none;
#                                 when there is one, they are tested without being asked for), 0: without them
#   ITR_CLIENTS="3.12 3.13"       test clients of real servers with these (scripts/pythons.py has the default)
#   ITR_STORM_SECONDS=600         how long each of the six storms lasts, per interpreter (10 in CI)
#   CI=true                       with all of the above, sanitizers and lint; no server or client may be missing
set -uo pipefail
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
python=${VENV:-.venv}/bin/python
failed=()
builds=()

step() { # step NAME COMMAND...
    local name=$1 start=$SECONDS
    shift
    echo "check: $name"
    "$@" || failed+=("$name")
    echo "check: $name took $((SECONDS - start)) s"
}

build_and_test() { # build_and_test PRESET FOLDER [CMAKE ARGUMENT...]
    local preset=$1 folder=$2
    shift 2
    builds+=("$folder")
    mkdir -p "$folder"
    rm -f "$folder/Testing/Temporary/LastTest.log"
    cmake --preset "$preset" "$@" >"$folder/configure.log" 2>&1 || {
        cat "$folder/configure.log"
        return 1
    }
    cmake --build --preset "$preset" --parallel "$jobs" -- --no-print-directory --quiet && ctest --preset "$preset"
}

release() {
    local pythons
    # shellcheck disable=SC2086 # a list of names
    pythons=$("$python" scripts/pythons.py ${PYTHONS:-}) && build_and_test release build "-DITR_PYTHONS=$pythons"
}

sid() {
    builds+=(build/sid)
    rm -f build/sid/Testing/Temporary/LastTest.log
    scripts/sid.sh
}

want_sid() {
    case "${ITR_SID:-}${CI:-}" in
        0*) false ;;
        1* | true) true ;;
        *) [ -z "${PYTHONS:-}" ] && [ "$(id -u)" = 0 ] && scripts/sid.sh --ready ;;
    esac
}

if [ "${CI:-}" = true ]; then
    export ITR_REQUIRE_SERVERS=1 ITR_STORM_SECONDS=${ITR_STORM_SECONDS:-10}
    step lint make --no-print-directory lint
    step asan build_and_test asan build/asan
    step tsan build_and_test tsan build/tsan
    step valgrind build_and_test valgrind build/valgrind
fi
if want_sid; then
    step sid sid
else
    echo 'check: CPython 3.14 and 3.15 of Debian sid are left out; as root, "ITR_SID=1 make check" gets and tests them'
fi
step release release

"$python" scripts/summary.py "${builds[@]}" || failed+=(tests)
if [ ${#failed[@]} -gt 0 ]; then
    echo "check: failed: $(IFS=,; echo "${failed[*]}")"
    exit 1
fi
