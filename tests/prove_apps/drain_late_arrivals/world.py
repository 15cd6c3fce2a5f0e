"""The platform of both twins: one whose load balancer lags behind."""

from stormproof.prove import PROFILES

OPTIONS = {
    name: {"profile": PROFILES["cloud-run"]}
    for name in ("defect", "sound", "sound_with_stormproof")
}
