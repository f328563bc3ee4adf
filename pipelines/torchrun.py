"""torchrun with the exit code of the ranks, and without its tracebacks:  python pipelines/torchrun.py ARGUMENTS

After a signal to this process the code is 128 + its number, as that of ``ssltool``. SIGUSR1 is passed on, too.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def stop(number: int, frame: FrameType | None) -> None:
    """Makes torchrun pass the signal on and end, as it does after SIGTERM."""
    raise SignalException(f"signal {number}", signal.Signals(number))


atexit.register(gc.freeze)  # ends sooner
signal.signal(signal.SIGUSR1, stop)
try:
    main()
except SignalException as stopped:
    sys.exit(128 + stopped.sigval)
except ChildFailedError as error:
    code = error.get_first_failure()[1].exitcode
    sys.exit(code if code > 0 else 128 - code)  # negative after a signal that killed a rank
