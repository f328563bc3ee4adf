#!/usr/bin/env bash
# Runs what is missing of the study, N runs at a time, each on one thread:
#
#     bash pipelines/study/study.sh N [PATTERN]
#     bash pipelines/study/study.sh 2 '^1a-w4-'
#
# PATTERN is a regular expression of names in runs.csv, by default all. The images are in study/data, the runs in
# study/runs, or where STUDY_DATA and STUDY_RUNS say. It may be stopped and started again at any time: complete runs are
# skipped, and others go on from their newest checkpoint. The log of a run is in its folder. Runs that are complete in the
# table STUDY_DONE, of gather.py, are skipped too: so several machines share the work.
set -euo pipefail
processes=${1:?the number of runs at a time} pattern=${2:-.}
here=$(cd "$(dirname "$0")" && pwd)
export DATA=${STUDY_DATA:-study/data} RUNS=${STUDY_RUNS:-study/runs} SCRIPT=$here/run.py
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

one() {  # RUN; xargs goes on after a run that fails
  mkdir -p "$RUNS/$1"
  echo "$(date +%T) $1" >&2
  python "$SCRIPT" "$1" --data "$DATA" --out "$RUNS" >>"$RUNS/$1/log" 2>&1 || {
    echo "$1 failed with $?: $(tail -n 1 "$RUNS/$1/log")" >&2
    return 1
  }
}
export -f one
rows=$(tail -n +2 "$here/runs.csv" | { grep -E -- "$pattern" || true; })
for name in $(cut -d, -f3 <<<"$rows" | sort -u); do
  [ -e "$DATA/$name" ] || { echo "error: $DATA has no $name; prepare it with $here/prepare.py, whose --help says how" >&2; exit 1; }
done
done=$([ -z "${STUDY_DONE:-}" ] || python "$here/gather.py" "$STUDY_DONE" --complete)
cut -d, -f1 <<<"$rows" | { grep -vxF -- "$done" || true; } | xargs -P "$processes" -I{} bash -c 'one "$1"' one {}
