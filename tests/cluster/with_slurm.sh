#!/usr/bin/env bash
# Run a command with a Slurm of one node on the loopback, two made-up GPUs included; root only.
#   tests/cluster/with_slurm.sh COMMAND...
# Installs Debian's packages where they lack, and stops all that it started, whatever happens.
set -euo pipefail

if [ "$(id -u)" -ne 0 ]; then
    echo "with_slurm.sh: expected root (for munge and slurmd), got $(id -un); run it in a container" >&2
    exit 2
fi
if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
    command -v apt-get >/dev/null || { echo "with_slurm.sh: expected apt-get or an installed Slurm, found none" >&2; exit 2; }
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q slurm-wlm munge >/dev/null
fi

# Job steps forget SLURM_CONF, so that the settings must lie where Slurm looks by itself.
if [ -e /etc/slurm/slurm.conf ] || [ -e /etc/slurm/gres.conf ]; then
    echo "with_slurm.sh: expected a machine without a Slurm of its own, got /etc/slurm/*.conf; use another" >&2
    exit 2
fi

folder=$(mktemp -d /tmp/rwp-slurm.XXXXXX)
started=()
stop() {
    status=$?
    trap - EXIT INT TERM
    scancel --quiet --full --user=root 2>/dev/null || true
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do
        kill -- "-${started[i]}" 2>/dev/null || true
    done
    for _ in $(seq 50); do
        alive=0
        for process in "${started[@]}"; do kill -0 -- "-$process" 2>/dev/null && alive=1; done
        [ "$alive" -eq 0 ] && break
        sleep 0.2
    done
    for process in "${started[@]}"; do kill -9 -- "-$process" 2>/dev/null || true; done
    [ "$status" -eq 0 ] || tail -n 30 "$folder"/*.log >&2 || true
    rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
    rm -rf "$folder"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() {  # in a process group of its own, so that its children end with it
    log=$1
    shift
    setsid "$@" >"$folder/$log.log" 2>&1 &
    started+=($!)
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
mkdir -p "$folder"/{state,spool,munge}
ln -s /dev/null "$folder/gpu0"  # Slurm wants devices
ln -s /dev/zero "$folder/gpu1"
mkdir -p /etc/slurm
cat >/etc/slurm/slurm.conf <<CONFIGURATION
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket=$folder/munge/socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=5,max_rpc_cnt=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
KillWait=10
ReturnToService=2
MpiDefault=none
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory Gres=gpu:2
PartitionName=loopback Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONFIGURATION
printf 'AutoDetect=off\nName=gpu File=%s Flags=nvidia_gpu_env\n' "$folder/gpu[0-1]" >/etc/slurm/gres.conf

dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
chown -R munge: "$folder/munge"
chmod 755 "$folder"
chmod 755 "$folder/munge"
chmod 400 "$folder/munge/key"
start munged setpriv --reuid=munge --regid=munge --clear-groups munged --foreground \
    --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
for _ in $(seq 50); do [ -S "$folder/munge/socket" ] && break; sleep 0.2; done
start slurmctld slurmctld -D
start slurmd slurmd -D -N "$host"
for _ in $(seq 100); do
    sinfo --noheader --format=%T 2>/dev/null | grep -q idle && break
    sleep 0.3
done
sinfo --noheader --format='Slurm on %N: %T, %c CPUs, %G' | grep idle

"$@"
