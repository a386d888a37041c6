# Give a host of Airflow the project: its code from S3, and a Python with its packages beside Airflow's own.
#
# MWAA runs this on each of its machines before Airflow starts, and keeps what it exports; airflow.yaml's host runs it
# once.  stack.py uploads it with REELBOOK_CODE=s3://BUCKET/code/DIGEST in front.  Only machines that run tasks need
# the packages.  It may be sourced: so no exit, and no set -e outside of the subshell.

export REELBOOK_HOME="${REELBOOK_HOME:-/usr/local/airflow/reelbook}"
export REELBOOK_PARAMETERS_FILE="${REELBOOK_PARAMETERS_FILE:-parameters/aws.yaml}"

reelbook_install() (
  set -euo pipefail
  echo "Fetching $REELBOOK_CODE to $REELBOOK_HOME ..."
  python3 - "$REELBOOK_CODE" "$REELBOOK_HOME" <<'PYTHON'
import pathlib
import sys

import boto3

bucket, _, key = sys.argv[1].removeprefix("s3://").partition("/")
s3, count = boto3.client("s3"), 0
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/"):
    for item in page.get("Contents", []):
        path = pathlib.Path(sys.argv[2], item["Key"].removeprefix(f"{key}/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, item["Key"], str(path))
        count += 1
if not count:
    sys.exit(f"There is nothing under {sys.argv[1]}: run stack.py upload, and give the stack its CodeKey.")
PYTHON
  if [ ! -x "$REELBOOK_HOME/.venv/bin/python" ] || ! cmp -s "$REELBOOK_HOME"/requirements.txt "$REELBOOK_HOME"/.venv/installed.txt; then
    echo "Installing the packages of requirements.txt into $REELBOOK_HOME/.venv ..."
    env -u PYTHONPATH python3 -m venv --clear "$REELBOOK_HOME/.venv"
    env -u PYTHONPATH "$REELBOOK_HOME/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --require-hashes -r "$REELBOOK_HOME/requirements.txt"
    cp "$REELBOOK_HOME/requirements.txt" "$REELBOOK_HOME/.venv/installed.txt"
  fi
)

case "${MWAA_AIRFLOW_COMPONENT:-worker}" in
  worker | hybrid)
    reelbook_install
    if [ $? -ne 0 ]; then  # not with ||, which would turn the subshell's set -e off
      echo "Reelbook's tasks will fail on this machine." >&2
      false
    fi
    ;;
esac
