#!/usr/bin/env bash
# A Slurm of a controller and two node daemons on this machine:  bash tests/cluster/slurm.sh start|stop FOLDER
#
# Needs root, and Debian's slurm-wlm and munge. All of its files are in FOLDER; after `source FOLDER/environment`, sbatch,
# srun and the others use it. The nodes "one" and "two", which become names of this machine in /etc/hosts, have two CPUs
# each, whatever the machine has. Jobs of the partition "urgent" preempt those of "batch", which are requeued after 5
# seconds (cred_expire; two minutes by default).
set -euo pipefail
command=${1:?start or stop} folder=$(realpath -m "${2:?a folder}")

start() {
  mkdir -p "$folder"/{state,spool.one,spool.two,log}
  if ! munge -n >/dev/null 2>&1; then
    [ -s /etc/munge/munge.key ] || mungekey --create
    mkdir -p /run/munge && chown munge /run/munge
    runuser -u munge -- munged
  fi
  grep -q "nodes of ssltool" /etc/hosts || echo "127.0.0.1 one two  # nodes of ssltool's tests" >>/etc/hosts
  cat >"$folder/slurm.conf" <<CONF
ClusterName=ssltool
SlurmctldHost=$(hostname)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmdSpoolDir=$folder/spool.%n
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=20
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2,requeue_setup_env_fail
NodeName=one NodeHostname=$(hostname) Port=17001 CPUs=2 RealMemory=1000
NodeName=two NodeHostname=$(hostname) Port=17002 CPUs=2 RealMemory=1000
PartitionName=batch Nodes=one,two Default=YES PriorityTier=1 GraceTime=30 OverTimeLimit=0
PartitionName=urgent Nodes=one,two PriorityTier=10 PreemptMode=OFF
CONF
  echo "export SLURM_CONF=$folder/slurm.conf" >"$folder/environment"
  export SLURM_CONF=$folder/slurm.conf
  slurmctld -c
  slurmd -c -N one
  slurmd -c -N two
  for _ in $(seq 60); do
    [ "$(sinfo -h -t idle -o %D -p batch 2>/dev/null)" = 2 ] && return
    sleep 0.5
  done
  sinfo -N >&2
  tail -n 20 "$folder"/log/* >&2
  exit 1
}

stop() {
  for daemon in slurmd.one slurmd.two slurmctld; do
    [ -s "$folder/$daemon.pid" ] && kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
  done
}

"$command"
