"""Tasks: work that outlives its request, supervised, and finished or accounted for at a drain."""

from ._batch import Batch as Batch
from ._configured import ConfiguredTasks as ConfiguredTasks
from ._handle import TaskHandle as TaskHandle
from ._handle import TaskState as TaskState
from ._handover import Handover as Handover
from ._handover import UnfinishedTask as UnfinishedTask
from ._roll import TasksStatistics as TasksStatistics
from ._service import Restart as Restart
from ._tasks import Tasks as Tasks
from ._work import OnShutdown as OnShutdown

__all__ = (
    "Batch",
    "ConfiguredTasks",
    "Handover",
    "OnShutdown",
    "Restart",
    "TaskHandle",
    "TaskState",
    "Tasks",
    "TasksStatistics",
    "UnfinishedTask",
)
