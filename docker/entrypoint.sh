#!/bin/sh
# What a container does: a role of its own, or any command of sweeper.
#
#   tracking-server   MLflow with names and passwords, its artifacts passed through it
#   join STUDY        workers for a study; waits until somebody has launched it
#   pod               where nobody gives a command, as on a rented machine: launches $SWEEPER_LAUNCH, then stays
#   ANYTHING ELSE     sweeper ANYTHING ELSE
set -eu

needed() { # NAME: a variable that the role cannot do without
    eval "value=\${$1:-}"
    [ -n "$value" ] || { echo "entrypoint: $role needs $1 in its environment (docker/.env.example)" >&2; exit 2; }
}

tracking_server() {
    for name in MLFLOW_BACKEND_STORE_URI MLFLOW_AUTH_DATABASE_URI MLFLOW_ADMIN_USERNAME MLFLOW_ADMIN_PASSWORD \
        MLFLOW_FLASK_SERVER_SECRET_KEY; do needed "$name"; done
    # MLflow takes these from a file alone: one of this container's, which nobody else reads, and never a layer's.
    umask 077
    MLFLOW_AUTH_CONFIG_PATH="$(mktemp -d)/auth.ini"
    export MLFLOW_AUTH_CONFIG_PATH
    {
        echo "[mlflow]"
        echo "default_permission = READ"
        echo "database_uri = $MLFLOW_AUTH_DATABASE_URI"
        echo "admin_username = $MLFLOW_ADMIN_USERNAME"
        echo "admin_password = $MLFLOW_ADMIN_PASSWORD"
    } >"$MLFLOW_AUTH_CONFIG_PATH"
    umask 022
    unset MLFLOW_ADMIN_PASSWORD
    exec mlflow server --app-name basic-auth --workers "${MLFLOW_WORKERS:-2}" \
        --host "${MLFLOW_HOST:-0.0.0.0}" --port "${MLFLOW_PORT:-5000}" --allowed-hosts "${MLFLOW_ALLOWED_HOSTS:-localhost,localhost:*,127.0.0.1,127.0.0.1:*,mlflow:*,10.*,172.*,192.168.*}" \
        --backend-store-uri "$MLFLOW_BACKEND_STORE_URI" \
        --artifacts-destination "${MLFLOW_ARTIFACTS_DESTINATION:-/artifacts}"
}

join() { # STUDY [OPTION...]
    [ $# -gt 0 ] || { echo "entrypoint: join needs a study, as it was launched: join STUDY" >&2; exit 2; }
    if [ -n "${SWEEPER_MIRROR:-}" ]; then # on another machine, with a folder of its own
        exec sweeper worker "$@" --mirror "$SWEEPER_MIRROR"
    fi
    until [ -f "$SWEEPER_HOME/studies/$1/config.yaml" ]; do
        echo "waiting for a launch of $1 in $SWEEPER_HOME"
        sleep "${SWEEPER_JOIN_LOOK_S:-10}"
    done
    exec sweeper worker "$@"
}

pod() {
    if [ -n "${SWEEPER_LAUNCH:-}" ]; then
        # As the words of a command line, quotes included.
        eval "sweeper launch $SWEEPER_LAUNCH" || echo "entrypoint: the launch ended with $?; the container stays, to be looked at" >&2
    else
        echo "nothing to launch: set SWEEPER_LAUNCH=\"study=... store.mirror=...\", or open a shell here and type sweeper launch"
    fi
    echo "this container stays until it is stopped; on_finish=COMMAND can do that from inside, once a study has ended"
    exec sleep infinity
}

role="${1:-pod}"
case "$role" in
    tracking-server) tracking_server ;;
    join) shift; join "$@" ;;
    pod) pod ;;
    *) exec sweeper "$@" ;;
esac
