#!/usr/bin/env bash
# Start a real SLURM with several virtual nodes and fake GPUs on one machine, to try sweeps and for tests. Run it as root.
#
#   slurm/one-machine-cluster.sh start|stop|status
#   eval "$(slurm/one-machine-cluster.sh env)"      # then sinfo, squeue, python run.py -m ... hydra/launcher=slurm
#
# Debian and Ubuntu: apt-get install --no-install-recommends slurm-wlm slurmdbd munge mariadb-server
# Environment variables: CLUSTER (folder of its state), NODES, CPUS, GPUS and MEM (MB) of each node, PORT (the first).
set -euo pipefail

CLUSTER="${CLUSTER:-/var/tmp/selfspec-slurm}"
NODES="${NODES:-4}" CPUS="${CPUS:-2}" GPUS="${GPUS:-2}" MEM="${MEM:-6000}" PORT="${PORT:-16817}"
HOST="$(hostname -s)"
export SLURM_CONF="$CLUSTER/slurm.conf"

configure() {
  mkdir -p "$CLUSTER"/{state,log,dev,mysql}
  chmod 755 "$CLUSTER"
  for ((i = 0; i < GPUS; i++)); do # SLURM requires a character device for each GPU; these are null devices
    [ -e "$CLUSTER/dev/gpu$i" ] || mknod "$CLUSTER/dev/gpu$i" c 1 3
  done
  cat >"$SLURM_CONF" <<CONF
ClusterName=selfspec
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
AuthType=auth/munge
# A requeued job starts after its credential has expired: in 5 s, not in 2 minutes.
AuthInfo=cred_expire=5
StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/spool-%n
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/slurmd-%n.pid
SlurmctldLogFile=$CLUSTER/log/slurmctld.log
SlurmdLogFile=$CLUSTER/log/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
MinJobAge=600
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 2))
AccountingStorageTRES=gres/gpu
NodeName=node[1-$NODES] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$((PORT + 101))-$((PORT + 100 + NODES))] CPUs=$CPUS RealMemory=$MEM Gres=gpu:$GPUS State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
CONF
  echo "NodeName=node[1-$NODES] Name=gpu File=$CLUSTER/dev/gpu[0-$((GPUS - 1))]" >"$CLUSTER/gres.conf"
  echo "CgroupPlugin=cgroup/v1" >"$CLUSTER/cgroup.conf"
  cat >"$CLUSTER/slurmdbd.conf" <<CONF
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 2))
SlurmUser=root
PidFile=$CLUSTER/slurmdbd.pid
LogFile=$CLUSTER/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 3))
StorageUser=slurm
StoragePass=selfspec
StorageLoc=accounting
CONF
  chmod 600 "$CLUSTER/slurmdbd.conf"
}

is_alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

wait_for() { # COMMAND, until it succeeds
  for ((n = 0; n < 200; n++)); do
    if eval "$1" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  echo "This command did not succeed within 20 s: $1 (logs: $CLUSTER/log)" >&2
  return 1
}

start_database() {
  local socket="$CLUSTER/mysql/socket" data="$CLUSTER/mysql/data" grant
  if ! is_alive "$CLUSTER/mysql.pid"; then
    chown mysql:mysql "$CLUSTER/mysql"
    [ -d "$data/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$data" \
      --auth-root-authentication-method=normal --skip-test-db >"$CLUSTER/log/mariadb-install.log" 2>&1
    nohup mariadbd --no-defaults --user=mysql --datadir="$data" --socket="$socket" --pid-file="$CLUSTER/mysql/pid" \
      --bind-address=127.0.0.1 --port=$((PORT + 3)) --innodb-buffer-pool-size=64M --innodb-log-file-size=16M \
      --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --skip-log-bin --performance-schema=OFF \
      >"$CLUSTER/log/mariadb.log" 2>&1 </dev/null &
    echo $! >"$CLUSTER/mysql.pid"
    wait_for "mariadb-admin --no-defaults -uroot -S $socket ping"
    grant="GRANT ALL ON accounting.* TO slurm@"
    mariadb --no-defaults -uroot -S "$socket" -e "CREATE DATABASE IF NOT EXISTS accounting;
      CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED BY 'selfspec'; ${grant}localhost;
      CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY 'selfspec'; ${grant}'127.0.0.1';"
  fi
  is_alive "$CLUSTER/slurmdbd.pid" || slurmdbd
  wait_for "sacctmgr -n -i show cluster"
  sacctmgr -n show cluster format=cluster | grep -q selfspec || sacctmgr -i add cluster selfspec >/dev/null
}

start() {
  for program in slurmctld slurmd slurmdbd munged mariadbd; do
    command -v "$program" >/dev/null || {
      echo "$program is not installed; the first lines of $0 name the packages." >&2
      exit 1
    }
  done
  configure
  install -d -o munge -g munge -m 0755 /run/munge
  if ! munge -n >/dev/null 2>&1; then
    runuser -u munge -- /usr/sbin/munged --force
    touch "$CLUSTER/started-munge"
  fi
  wait_for "munge -n"
  start_database
  is_alive "$CLUSTER/slurmctld.pid" || slurmctld
  wait_for "scontrol ping | grep -q UP"
  for ((i = 1; i <= NODES; i++)); do
    mkdir -p "$CLUSTER/spool-node$i"
    is_alive "$CLUSTER/slurmd-node$i.pid" || slurmd -N "node$i"
  done
  wait_for "[ \$(sinfo -h -N -p main -t idle,mix,alloc -o %N | wc -l) -eq $NODES ]"
  status
}

stop() {
  local file pid
  for file in "$CLUSTER"/slurmd-node*.pid "$CLUSTER"/{slurmctld,slurmdbd,mysql}.pid; do
    if is_alive "$file"; then
      pid=$(cat "$file")
      kill "$pid" || true
      for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
      done
    fi
    rm -f "$file"
  done
  if [ -e "$CLUSTER/started-munge" ]; then
    kill "$(cat /run/munge/munged.pid)" || true
    rm "$CLUSTER/started-munge"
  fi
}

status() { sinfo -N -p main -o "%N %T %C %G %E"; }

case "${1:-}" in
  start | stop | status) "$1" ;;
  env) # every node is this machine: several processes of one stage connect through its loopback interface
    echo "export SLURM_CONF=$SLURM_CONF MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo"
    ;;
  *)
    echo "usage: $0 start|stop|status|env" >&2
    exit 2
    ;;
esac
