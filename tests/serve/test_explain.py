"""`--explain`: each platform waits longer than the grace, and a misfit is said."""

import json
import re
from typing import Any

import pytest

from stormproof.lifecycle._health import HEALTH_PATHS
from stormproof.serve._explain import Advice, Plan, as_json, as_text, explain


def plan(grace: float = 30.0, prestop: float = 5.0, host: str = "0.0.0.0", **more: Any) -> Plan:
    return Plan(target="shop.main:app", host=host, grace=grace, prestop=prestop, **more)


def advice_for(platform: str, chosen: Plan) -> Advice:
    return next(one for one in explain(chosen) if one.platform == platform)


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match is not None, text
    return float(match[1])


@pytest.mark.parametrize("grace", [0.5, 8, 25, 30, 60.5, 110])
@pytest.mark.parametrize(
    ("platform", "pattern"),
    [
        ("Kubernetes", r"terminationGracePeriodSeconds: (\d+)"),
        ("systemd", r"TimeoutStopSec=(\d+)"),
        ("Docker", r"stop_grace_period: (\d+)s"),
        ("Docker", r"docker stop --timeout (\d+)"),
        ("ECS", r'"stopTimeout": (\d+)'),
    ],
)
def test_platform_waits_longer_than_the_process_may_take(
    platform: str, pattern: str, grace: float
) -> None:
    advice = advice_for(platform, plan(grace=grace, prestop=0.1))
    assert number(pattern, advice.snippet) > grace + 1  # it ends itself a second late


@pytest.mark.parametrize("grace", [5, 8, 9, 30, 300])
def test_cloud_run_s_grace_always_fits_its_ten_seconds(grace: float) -> None:
    advice = advice_for("Cloud Run", plan(grace=grace))
    told = number(r"--grace,([\d.]+)", advice.snippet)
    assert told + 1 < 10
    assert told <= grace
    assert number(r"--prestop,([\d.]+)", advice.snippet) < told
    assert bool(advice.warnings) == (grace + 1 >= 10)


def test_misfit_of_a_default_is_said() -> None:
    said = {one.platform: " ".join(one.warnings) for one in explain(plan(grace=200))}
    assert "(30) is too short" in said["Kubernetes"]
    assert "(90) is too short" in said["systemd"]
    assert "10 s by default" in said["Docker"]
    assert "SIGKILL comes after 10 s" in said["Cloud Run"]
    assert "does not fit Fargate" in said["ECS"]


def test_nothing_is_said_where_all_fits() -> None:
    assert [one.warnings for one in explain(plan(grace=5, prestop=3))] == [()] * 5


def test_short_lame_duck_and_loopback_are_said() -> None:
    advice = advice_for("Kubernetes", plan(grace=5, prestop=0, host="127.0.0.1"))
    assert [warning.split()[0] for warning in advice.warnings] == ["--host", "--prestop"]
    assert '"--host", "0.0.0.0"' in advice.snippet
    assert "127.0.0.1" not in advice_for("Docker", plan(host="127.0.0.1")).snippet


def test_probes_are_the_paths_that_the_service_answers() -> None:
    paths = re.findall(r"path: (\S+),", advice_for("Kubernetes", plan()).snippet)
    assert sorted(paths) == sorted(HEALTH_PATHS)


def test_workers_are_in_each_command() -> None:
    for one in explain(plan(workers=3)):
        assert re.search(r'--workers[\s",]+3', one.snippet), one.platform


def test_systemd_s_socket_listens_where_the_service_would() -> None:
    snippet = advice_for("systemd", plan(host="::", port=9000)).snippet
    assert "ListenStream=[::]:9000" in snippet
    assert "KillMode=mixed" in snippet
    assert "/etc/systemd/system/main.socket" in snippet


def test_text_and_json_say_the_same() -> None:
    chosen = plan()
    advice = explain(chosen)
    text, document = as_text(chosen, advice), json.loads(as_json(chosen, advice))
    assert document["plan"]["wait"] == chosen.wait
    for platform in document["platforms"]:
        assert platform["source"] in text
        assert platform["snippet"].rstrip() in text
        assert all(f"WARNING: {warning}\n" in text for warning in platform["warnings"])


def test_tls_reaches_the_probes_and_stays_out_of_cloud_run() -> None:
    chosen = plan(certfile="/etc/tls/crt.pem", keyfile="/etc/tls/key.pem")
    assert advice_for("Kubernetes", chosen).snippet.count("scheme: HTTPS") == 3
    assert "--ssl-keyfile /etc/tls/key.pem" in advice_for("systemd", chosen).snippet
    cloud_run = advice_for("Cloud Run", chosen)
    assert "--ssl" not in cloud_run.snippet
    assert "TLS itself" in cloud_run.warnings[-1]
