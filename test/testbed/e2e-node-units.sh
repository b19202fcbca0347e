#!/bin/sh
# Stands in for sudo, systemd-run and systemctl on a node of the lab, by the name it is called: upstream's node suite starts, stops and restarts the
# kubelet as a transient unit, and there is no systemd on the machines the lab runs on. Units are folders in $KEELSON_LAB_UNITS.
set -eu

fail() {
  echo "${0##*/} (the lab's stand-in): $*" >&2
  exit 1
}

runs() {
  [ -f "$1/pid" ] || return 1
  read -r pid <"$1/pid"
  # A process that has ended and is not waited for still has its folder in /proc.
  state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$pid/status" 2>/dev/null) || return 1
  [ -n "$state" ] && [ "$state" != Z ]
}

start() {
  read -r log <"$1/log"
  (
    set --  "$1"
    while IFS= read -r argument; do set -- "$@" "$argument"; done <"$1/argv"
    shift
    exec setsid "$@" >>"$log" 2>&1 </dev/null
  ) &
  echo $! >"$1/pid"
}

stop() {
  runs "$1" || return 0
  kill -TERM "$pid"
  waited=0
  while runs "$1"; do
    # systemd's DefaultTimeoutStopSec is 90 s.
    if [ "$waited" -ge 900 ]; then kill -KILL "$pid"; fi
    waited=$((waited + 1))
    sleep 0.1
  done
}

# Names without a suffix are services.
folder() {
  case $1 in
  *.service) echo "$units/$1" ;;
  *) echo "$units/$1.service" ;;
  esac
}

case ${0##*/} in
sudo)
  exec "$@"
  ;;
systemd-run)
  units=$KEELSON_LAB_UNITS
  unit='' log=/dev/null
  while [ $# -gt 0 ]; do
    case $1 in
    --version)
      echo 'systemd 252 (stand-in)'
      exit 0
      ;;
    -p)
      case $2 in StandardError=append:* | StandardError=file:*) log=${2#*:} ;; esac
      shift 2
      ;;
    --unit=*)
      unit=$(folder "${1#--unit=}")
      shift
      ;;
    --slice=* | --remain-after-exit) shift ;;
    -*) fail "unknown option $1" ;;
    *) break ;;
    esac
  done
  [ -n "$unit" ] || fail 'no --unit'
  mkdir -p "$unit"
  echo "$log" >"$unit/log"
  # systemd reads "%%" and "$$" as one character.
  for argument in "$@"; do printf '%s\n' "$argument" | sed 's/%%/%/g; s/\$\$/$/g'; done >"$unit/argv"
  start "$unit"
  ;;
systemctl)
  units=$KEELSON_LAB_UNITS
  verb=$1
  shift
  case $verb in
  list-units)
    only=all pattern='*'
    for argument in "$@"; do
      case $argument in
      --state=running) only=running ;;
      -*) fail "unknown option $argument" ;;
      *) pattern=$argument ;;
      esac
    done
    for unit in "$units"/$pattern; do
      [ -d "$unit" ] || continue
      if runs "$unit"; then
        echo "${unit##*/} loaded active running"
      elif [ "$only" = all ]; then
        echo "${unit##*/} loaded active exited"
      fi
    done
    ;;
  kill | stop | start | restart)
    unit=$(folder "$1")
    [ -d "$unit" ] || fail "no unit ${unit##*/}"
    case $verb in
    kill) if runs "$unit"; then kill -TERM "$pid"; fi ;;
    stop)
      stop "$unit"
      rm -r "$unit"
      ;;
    start) runs "$unit" || start "$unit" ;;
    restart)
      stop "$unit"
      start "$unit"
      ;;
    esac
    ;;
  reset-failed) ;;
  *) fail "unknown command $verb" ;;
  esac
  ;;
*)
  fail 'called by a name it does not know'
  ;;
esac
