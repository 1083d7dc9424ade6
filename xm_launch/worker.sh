#!/usr/bin/env bash
# Commands on a TPU VM's worker; all workers run the same.
#
#   worker.sh setup TAG    installs TAG.tar.gz, once per TAG
#   worker.sh start        starts run.sh in the background
#   worker.sh status       prints running, done, failed or idle
#   worker.sh log [LINES]  prints the end of the run's log
#   worker.sh stop         stops the run
#
# All its files are in ~/fnet_t5x_pod (FNET_T5X_HOME). `setup` and `start` may
# be repeated: they do nothing if the TAG is installed, or if the run is in
# progress or done.
set -euo pipefail

home=${FNET_T5X_HOME:-$HOME/fnet_t5x_pod}
venv=$home/venv
mkdir -p "$home"
# After a reboot, the process id may belong to another process.
boot=$(cat /proc/sys/kernel/random/boot_id)

# Whether the process that `start` left is alive; its group has all children.
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
  if alive; then
    echo 'another run is in progress here (other commit): worker.sh stop' >&2
    return 1
  fi
  rm -rf "$home/installed" "$home/source"
  mkdir "$home/source"
  tar -xzf "$home/$tag.tar.gz" -C "$home/source"
  if [[ ! -x $venv/bin/python ]]; then
    # The workers' system Python is too old for this package.
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.11 "$venv"
  fi
  PATH=$venv/bin:$PATH bash "$home/source/xm_launch/install.sh" \
    "$home/source" t5x,tpu
  echo "$tag" >"$home/installed"
  echo "$tag installed"
}

start() {
  local same=no
  cmp --silent "$home/run.sh" "$home/started.sh" && same=yes
  if alive; then
    if [[ $same == no ]]; then
      echo 'another run is in progress here: worker.sh stop' >&2
      return 1
    fi
    echo 'the run is in progress'
    return
  fi
  if [[ $same == yes && $(status) == 'done' ]]; then
    echo 'the run is already done'
    return
  fi
  rm -f "$home/code"
  cp "$home/run.sh" "$home/started.sh"
  # In its own session, to outlive the connection that started it. Its shell
  # catches SIGTERM, which the run receives too, and waits for the run to save.
  # shellcheck disable=SC2016  # for the inner bash to expand
  PATH=$venv/bin:$PATH setsid bash -c \
    'trap : TERM; cd "$1"; bash started.sh; echo $? >code.part
    mv code.part code' \
    start "$home" >>"$home/log" 2>&1 </dev/null &
  echo "$! $boot" >"$home/pid"
  echo 'started'
}

status() {
  if [[ -f $home/code ]]; then
    if [[ $(cat "$home/code") == 0 ]]; then echo 'done'; else echo failed; fi
  elif alive; then
    echo running
  elif [[ -f $home/pid ]]; then
    # Killed, or the machine rebooted.
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
    # Up to a minute to finish the current step and save a checkpoint.
    for _ in $(seq 300); do
      alive || break
      sleep 0.2
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
