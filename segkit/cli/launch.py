"""Starting this command again as several processes on this machine, one for each GPU, by torchrun's engine."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

EXIT_KILLED = 128


def is_launched() -> bool:
    """Tell whether this process is one of several that torchrun has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first_process() -> bool:
    """Tell whether this process is the one of several that speaks to the user."""
    if is_launched():
        return os.environ.get("RANK", "0") == "0"
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1
    return not several or os.environ.get("SLURM_PROCID", "0") == "0"


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `segkit ARGUMENTS` as so many processes that train together; return the exit code of the command.

    A signal to stop is passed on to all of them, which have half a minute to save.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from segkit.training.loading import usable_cores

    # As torchrun: else each process would take all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"segkit-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
    )
    # Its processes say themselves what is wrong; `-v` shows what it says of them.
    if not logging.getLogger("segkit").isEnabledFor(logging.INFO):
        for name in [one for one in logging.root.manager.loggerDict if one.startswith("torch.distributed")]:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        elastic_launch(settings, sys.executable)("-m", "segkit", *arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code >= 0 else EXIT_KILLED - code
    except SignalException as error:
        received = signal.SIGTERM if error.sigval == signal.SIGUSR1 else error.sigval
        return EXIT_KILLED + int(received)
    return 0
