#!/usr/bin/env bash
# What a TPU VM's workers do: every worker runs the same.
#
#   worker.sh setup TAG    installs ~/fnet_t5x/TAG.tar.gz, once a TAG
#   worker.sh start RUN    starts the file RUN (bash) and leaves it running
#   worker.sh status       one word a worker: running, done, failed, idle
#   worker.sh log [LINES]  the end of the run's log
#   worker.sh stop         ends the run
#
# All it keeps is in ~/fnet_t5x (FNET_T5X_HOME). `setup` and `start` may be run
# again: a worker that has the TAG, or a run that goes on, is left alone.
set -euo pipefail

home=${FNET_T5X_HOME:-$HOME/fnet_t5x}
venv=$home/venv
mkdir -p "$home"

# After a reboot the number may be another process's.
boot=$(cat /proc/sys/kernel/random/boot_id)

# The process that `start` left; its group holds all that it started.
alive() {
  local pid booted
  [[ -f $home/pid ]] || return 1
  read -r pid booted <"$home/pid"
  [[ $booted == "$boot" ]] && kill -0 "$pid" 2>/dev/null
}

setup() {
  local tag=${1:?worker.sh setup TAG}
  if [[ -f $home/installed && $(cat "$home/installed") == "$tag" ]]; then
    echo "$tag is installed"
    return
  fi
  rm -f "$home/installed"
  rm -rf "$home/source"
  mkdir "$home/source"
  tar -xzf "$home/$tag.tar.gz" -C "$home/source"
  if [[ ! -x $venv/bin/python ]]; then
    # The workers' own Python is older than the package asks for.
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.11 "$venv"
  fi
  PATH=$venv/bin:$PATH bash "$home/source/xm_launch/install.sh" \
    "$home/source" t5x,tpu
  echo "$tag" >"$home/installed"
  echo "$tag installed"
}

start() {
  local run=${1:?worker.sh start RUN}
  if alive; then
    echo 'a run goes on'
    return
  fi
  rm -f "$home/code"
  # Its own session: it outlives the connection that started it.
  PATH=$venv/bin:$PATH setsid bash -c \
    'bash "$1"; echo $? >"$2/code.part"; mv "$2/code.part" "$2/code"' \
    start "$run" "$home" >>"$home/log" 2>&1 </dev/null &
  echo "$! $boot" >"$home/pid"
  echo started
}

status() {
  if [[ -f $home/code ]]; then
    if [[ $(cat "$home/code") == 0 ]]; then echo 'done'; else echo failed; fi
  elif alive; then
    echo running
  elif [[ -f $home/pid ]]; then
    # Killed, or the machine was started anew.
    echo failed
  else
    echo idle
  fi
}

stop() {
  local pid
  if alive; then
    read -r pid _ <"$home/pid"
    kill -TERM -- "-$pid" 2>/dev/null || true
    for _ in $(seq "${FNET_T5X_GRACE_SECONDS:-60}"); do
      alive || break
      sleep 1
    done
    kill -KILL -- "-$pid" 2>/dev/null || true
  fi
  rm -f "$home/pid" "$home/code"
  echo stopped
}

log() {
  tail -n "${1:-20}" "$home/log"
}

case ${1:-} in
  setup | start | status | stop | log) "$@" ;;
  *)
    echo "worker.sh: no command ${1:-given}: setup, start, status, log, stop" >&2
    exit 2
    ;;
esac
