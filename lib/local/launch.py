"""Starts a job's process so that it cannot outlive the server: run as a script, never imported.

    python -I -S launch.py SERVER_PID COMMAND [ARGUMENT …]

On Linux the kernel is asked to kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG, which
survives exec); then the command takes this process's place.  Elsewhere only the latter happens, and the
next start of the server ends what is left (see `lib.local.supervise.end_leftovers`).
"""

import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9

if sys.platform == "linux":
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != int(sys.argv[1]):  # the server died before the kernel was asked
        os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
