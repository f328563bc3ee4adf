"""torchrun with the exit code of the ranks, and without its tracebacks:  python pipelines/torchrun.py ARGUMENTS

After a signal to this process the code is 128 + its number, as that of ``ssltool``. SIGUSR1 is passed on, too.
"""

import atexit
import gc
import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

atexit.register(gc.freeze)  # ends sooner
os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT")
try:
    main()
except SignalException as stop:
    sys.exit(128 + stop.sigval)
except ChildFailedError as error:
    code = error.get_first_failure()[1].exitcode
    sys.exit(code if code > 0 else 128 - code)  # negative after a signal that killed a rank
