#!/usr/bin/env bash
# Expected: `import onnxruntime` on Linux loads a library and leaves the home directory as it is; a user who wants no
#   telemetry calls onnxruntime.disable_telemetry_events() afterwards.
# Happens: importing onnxruntime 1.32.0 creates ~/.cache/Microsoft/DeveloperTools/.onnxruntime with a device id, before
#   any function can be called, and the call above, made after the import, is too late. With ORT_DISABLE_TELEMETRY=1
#   in the environment before the import nothing is created. Release 1.28.0 creates nothing in either case.
# Source: seen by this script, on Linux x86-64 with Python 3.11.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"

# Print what is below the home directory after a program has run with an empty one.
left_by() {
    local home="$work/home"
    rm -rf "$home"
    mkdir "$home"
    env -u XDG_CACHE_HOME -u ORT_DISABLE_TELEMETRY HOME="$home" "${@:2}" "$work/venv/bin/python" -c "$1"
    (cd "$home" && find . -type f | sort)
}

failed=0
expect() { # description, "some" or "none", files
    local found=none
    [ -z "$3" ] || found=some
    printf '%s: %s\n' "$1" "${3:-no file}"
    [ "$found" = "$2" ] || { echo "  changed: expected $2"; failed=1; }
}

for version in 1.28.0 1.32.0; do
    "$work/venv/bin/pip" install -qq --disable-pip-version-check "onnxruntime==$version"
    echo "onnxruntime $("$work/venv/bin/python" -W ignore -c 'import os; os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime; print(onnxruntime.__version__)')"
    wanted=none
    [ "$version" = 1.28.0 ] || wanted=some
    expect "  import" "$wanted" "$(left_by 'import onnxruntime')"
    expect "  import, then disable_telemetry_events()" "$wanted" \
        "$(left_by 'import onnxruntime; onnxruntime.disable_telemetry_events()')"
    expect "  ORT_DISABLE_TELEMETRY=1 before the import" none "$(left_by 'import onnxruntime' ORT_DISABLE_TELEMETRY=1)"
done
exit "$failed"
