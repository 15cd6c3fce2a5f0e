"""Prove: attack any FastAPI app and report what was lost, leaked or blocked."""

from ._audit import Audit as Audit
from ._audit import Finding as Finding
from ._audit import Judgement as Judgement
from ._audit import Report as Report
from ._judge import judge as judge
from ._options import PROFILES as PROFILES
from ._options import Profile as Profile
from ._options import ProveOptions as ProveOptions
from ._progress import Progress as Progress
from ._recording import AttackRecord as AttackRecord
from ._recording import Recording as Recording
from ._recording import Route as Route
from ._run import prove as prove
from ._store import load_recording as load_recording
from ._store import save_recording as save_recording
from .attacks import ATTACKS as ATTACKS
from .audits import AUDITS as AUDITS

__all__ = (
    "ATTACKS",
    "AUDITS",
    "PROFILES",
    "AttackRecord",
    "Audit",
    "Finding",
    "Judgement",
    "Profile",
    "Progress",
    "ProveOptions",
    "Recording",
    "Report",
    "Route",
    "judge",
    "load_recording",
    "prove",
    "save_recording",
)
