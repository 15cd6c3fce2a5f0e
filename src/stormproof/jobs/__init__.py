"""Jobs: work that must not be lost, stored with the data it belongs to and done after any crash."""

from ._facts import HeldJob as HeldJob
from ._facts import JobHandle as JobHandle
from ._facts import JobsStatistics as JobsStatistics
from ._facts import JobState as JobState
from ._facts import OnFailure as OnFailure
from ._job import Job as Job
from ._job import current_job as current_job
from ._jobs import Jobs as Jobs
from ._outcomes import JobOutcome as JobOutcome
from ._task import JobTask as JobTask

__all__ = (
    "HeldJob",
    "Job",
    "JobHandle",
    "JobOutcome",
    "JobState",
    "JobTask",
    "Jobs",
    "JobsStatistics",
    "OnFailure",
    "current_job",
)
