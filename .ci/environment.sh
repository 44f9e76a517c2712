# Virtual environments that outlive a run: kept in the user's cache under a name that says what was asked for, so that
# an unchanged one is there already; new ones each month, so that new releases are met. To be sourced from the top.

if [ -z "${RECBOLE_SID_CI_CACHE:-}" ]; then
    export RECBOLE_SID_CI_CACHE=${XDG_CACHE_HOME:-${HOME:-}/.cache}/recbole-sid-ci
    lock=$RECBOLE_SID_CI_CACHE/lock
    # One run at a time uses them, and none on a system without flock: others make their own, in the checkout.
    if ! { mkdir -p "$RECBOLE_SID_CI_CACHE" && : >> "$lock" && exec 9<> "$lock" && flock --nonblock 9; } 2> /dev/null; then
        RECBOLE_SID_CI_CACHE=$PWD/.venv-ci
        rm -rf "$RECBOLE_SID_CI_CACHE"
        mkdir "$RECBOLE_SID_CI_CACHE"
    fi
fi

# environment NAME: make it if it is not there, and activate it.
environment() {
    local asked folder other
    asked=$({ date +%Y-%m; python3 -VV; cat setup.cfg .ci/*; } | sha256sum | cut -c 1-16)
    folder=$RECBOLE_SID_CI_CACHE/$1-$asked
    for other in "$RECBOLE_SID_CI_CACHE/$1"-*; do
        [ "$other" = "$folder" ] || rm -rf "$other"
    done
    if [ ! -f "$folder/complete" ]; then
        rm -rf "$folder"
        python3 -m venv "$folder"
    fi
    source "$folder/bin/activate"
}

# environment_is_complete: say of the active one that all was installed, so that the next run may use it.
environment_is_complete() {
    touch "$VIRTUAL_ENV/complete"
}
