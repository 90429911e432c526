"""Files that let a scheduler of the system run `fluxgrid refresh` unattended; fluxgrid has no scheduler of its own.

One module for each kind, registered in `KINDS`; a new kind is a new module and a line here. Nothing is written or read:
a `Schedule` goes in, texts come out.
"""

from fluxgrid.scheduling import cron, github, kubernetes, slurm, systemd  # noqa: F401  (each registers its kind)
from fluxgrid.scheduling.schedule import KINDS, File, Kind, Schedule, schedule_name
from fluxgrid.scheduling.when import DELAY_S, Every, When, read_when

__all__ = ["DELAY_S", "KINDS", "Every", "File", "Kind", "Schedule", "When", "read_when", "schedule_name"]
