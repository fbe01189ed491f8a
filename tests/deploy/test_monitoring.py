"""Monitoring: each alert fires in its trouble and only then, and a rig that runs fills the dashboard."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from decoder_service.settings import DecoderSettings
from encoder_service.settings import EncoderSettings
from tests.browser.rig import START_S, Process
from tests.contract.service_process import free_port
from tests.deploy import situations
from tests.deploy.situations import CALM, TROUBLE, Situation
from tests.e2e.conftest import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "dashboards" / "ndsc.json"
PATIENCE_S: Final = 90.0
FPS: Final = 4

SUBSTITUTES: Final = {"$__rate_interval": "20s", "$rig": "(rig)", "$camera": "(left|right)"}
"""What Grafana would put in place of its variables, with both cameras chosen."""

MAY_BE_EMPTY: Final = {
    "ALERTS": "nothing is wrong with the rig",
    "ndsc_decoder_failed_frames_total": "no frame fails, and a reason is shown from its first frame on",
    "ndsc_decoder_refused_calls_total": "no call is refused, and a reason is shown from its first call on",
    "ndsc_node_failed_frames_total": "as those of the decoder",
    "ndsc_node_dropped_frames_total": "no frame is dropped, and a cause is shown from its first frame on",
    "ndsc_decoder_capture_age_seconds": "the synthetic drive keeps a clock of its own, so no age is known",
    "ndsc_node_certificate_expiry_timestamp_seconds": "the rig runs without certificates",
    "haproxy_": "one decoder needs no proxy",
}
"""Beginnings of metrics whose panels a rig in good order leaves empty, and why."""


def tool(name: str) -> str:
    """Path of a program of Debian's package prometheus."""
    path = shutil.which(name)
    assert path, f"these tests need {name}: apt-get install prometheus"
    return path


def promtool(*arguments: str) -> str:
    """What it printed; it must succeed."""
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules_text() -> str:
    return (PROMETHEUS / "rules.yml").read_text()


def alerts() -> dict[str, str]:
    """Name → the text of its rule."""
    parts = re.split(r"- alert: (\w+)\n", rules_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board


def panels() -> list[dict[str, Any]]:
    """Those that show something; rows do not."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Panel and query → what Grafana asks for."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for variable, value in SUBSTITUTES.items():
                text = text.replace(variable, value)
            assert "$" not in text, text
            found[f"{panel['id']} {panel['title']} {target['refId']}"] = text
    return found


def metric_names(text: str) -> set[str]:
    """Of this project, as docs/METRICS.md has them."""
    return {re.sub(r"_(bucket|sum|count)$", "", found) for found in re.findall(r"\bndsc_\w+", text)}


def documented() -> set[str]:
    return set(re.findall(r"^\| `(ndsc_\w+)`", (ROOT / "docs" / "METRICS.md").read_text(), re.MULTILINE))


# --- Rules, without a rig


def test_promtool_accepts_what_prometheus_is_given() -> None:
    promtool("check", "config", "--lint-fatal", str(PROMETHEUS / "prometheus.yml"))
    promtool("check", "rules", "--lint-fatal", str(PROMETHEUS / "rules.yml"))


def unit_test(situation: Situation, *expected: tuple[str, int, tuple[str, ...]]) -> dict[str, Any]:
    """What `promtool test rules` is to try: each expression gives those series at that minute, and no other."""
    return {
        "name": situation.title,
        "interval": f"{situations.STEP_S}s",
        "input_series": [{"series": series, "values": values} for series, values in situation.series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": series, "value": 1} for series in found],
            }
            for expression, minute, found in expected
        ],
    }


def test_alerts_fire_in_their_trouble_and_only_then(tmp_path: Path) -> None:
    firing = 'ALERTS{alertstate="firing"}'
    ever = f"count_over_time({firing}[{situations.MINUTES}m])"
    tests = [unit_test(calm, (ever, situations.MINUTES, ())) for calm in CALM]
    for trouble in TROUBLE:
        alerts = tuple(f'ALERTS{{alertstate="firing", {labels}}}' for labels in trouble.alerts)
        # Nothing is cried out the moment that it happens.
        at_first = (firing, situations.BEGIN_MINUTE, ())
        tests.append(unit_test(trouble, at_first, (firing, situations.SEEN_MINUTE, alerts)))
    file = tmp_path / "rules_test.yml"  # JSON is YAML
    content = {
        "rule_files": [str(PROMETHEUS / "rules.yml")],
        "evaluation_interval": f"{situations.RULES_EVERY_S}s",
        "tests": tests,
    }
    file.write_text(json.dumps(content))
    promtool("test", "rules", str(file))


def test_every_alert_has_its_trouble_and_words_that_fit() -> None:
    shown: dict[str, list[str]] = {}
    for trouble in TROUBLE:
        for labels in trouble.alerts:
            shown.setdefault(dict(re.findall(r'(\w+)="([^"]*)"', labels))["alertname"], []).append(labels)
    assert set(shown) == set(alerts())
    for name, text in alerts().items():
        assert re.search(r"^ +for: \w+$", text, re.MULTILINE), name
        assert re.search(r"^ +labels: \{severity: (critical|warning|info)\}$", text, re.MULTILINE), name
        assert re.search(r"^ +summary: \".{10,}\"$", text, re.MULTILINE), name
        assert re.search(r"^ +description: >-\n +\S.{40,}", text, re.MULTILINE), name
        # A label that an alert has not is silently nothing in its text.
        for label in re.findall(r"\$labels\.(\w+)", text):
            assert all(f'{label}="' in labels for labels in shown[name]), (name, label)


def test_the_page_for_operators_lists_every_alert() -> None:
    page = (ROOT / "docs" / "operate" / "metrics.md").read_text()
    severities = {name: re.search(r"severity: (\w+)", text) for name, text in alerts().items()}
    assert dict(re.findall(r"^\| `(Ndsc\w+)` \| (\w+) \|", page, re.MULTILINE)) == {
        name: found[1] for name, found in severities.items() if found
    }


def test_what_is_watched_is_what_compose_starts() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    watched = {
        name
        for names in re.findall(r"names: \[(.*)\]", (PROMETHEUS / "prometheus.yml").read_text())
        for name in names.split(", ")
    }
    services = set(re.findall(r"^  ((?:decoder|camera|proxy)[\w-]*):", compose, re.MULTILINE))
    # Its service has two names, and is watched by the one that the decoder without a GPU has too.
    assert watched == services - {"decoder-gpu"}
    assert compose.count("_METRICS_LISTEN: 0.0.0.0:9464") == 2


# --- The dashboard, without a rig


def test_every_metric_is_on_the_dashboard_and_none_that_does_not_exist() -> None:
    on_dashboard = metric_names("\n".join(expressions().values()))
    assert on_dashboard == documented()
    assert metric_names(rules_text()) <= documented()


def test_recorded_limits_are_used() -> None:
    for recorded in re.findall(r"- record: (\S+)", rules_text()):
        assert recorded in "\n".join(expressions().values()), recorded
        assert any(recorded in text for text in alerts().values()), recorded


def test_panels_are_whole() -> None:
    board = dashboard()
    assert board["uid"] == "ndsc"
    assert board["schemaVersion"] >= 39
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in board["panels"]]
    for panel in panels():
        where = panel["title"]
        assert len(panel["description"]) > 10, where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        assert panel["datasource"]["uid"] == "prometheus", where
        assert all(target["datasource"]["uid"] == "prometheus" for target in panel["targets"]), where
        letters = [target["refId"] for target in panel["targets"]]
        assert letters, where
        assert len(set(letters)) == len(letters), where
    assert {"Rig", "Side information", "Latency", "Camera nodes", "Archive and spools", "Processes"} <= set(
        titles
    )
    assert [variable["name"] for variable in board["templating"]["list"]] == ["rig", "camera"]
    source = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    assert "uid: prometheus\n" in source
    scrape = re.search(r"scrape_interval: (\w+)", (PROMETHEUS / "prometheus.yml").read_text())
    assert scrape
    assert f"timeInterval: {scrape[1]}\n" in source


def test_panels_lie_beside_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


# --- A rig that runs


@dataclass(frozen=True)
class Prometheus:
    """A server that watches."""

    address: str

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer; Prometheus must find nothing wrong with the question."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                pytest.fail(f"{parameters}: {error.read().decode()}")
        assert answer["status"] == "success", answer
        assert "warnings" not in answer, answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """What an expression gives now."""
        return [float(sample["value"][1]) for sample in self.get("query", query=expression)["result"]]

    def rules(self, kind: str) -> list[dict[str, Any]]:
        """As they are evaluated."""
        groups = self.get("rules", type=kind)["groups"]
        return [rule for group in groups for rule in group["rules"]]


def on_this_machine(config: str, addresses: dict[str, str]) -> str:
    """prometheus.yml with addresses in place of names to be looked up, and in more of a hurry.

    The names stay what the rest of the file sees; those without an address have no target, as in Docker.
    """

    def fixed(found: re.Match[str]) -> str:
        indent, names = found[1], found[2].split(", ")
        targets = [
            f"{indent}  - targets: ['{addresses[name]}']\n{indent}    labels: {{__meta_dns_name: {name}}}\n"
            for name in names
            if name in addresses
        ]
        return f"{indent}static_configs:\n" + "".join(targets)

    lookup = r"^( +)dns_sd_configs:\n +- names: \[(.*)\]\n +type: A\n +port: \d+\n +refresh_interval: \w+\n"
    config, jobs = re.subn(lookup, fixed, config, flags=re.MULTILINE)
    assert jobs == 3
    return re.sub(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 1s", config)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A decoder, a camera and its side information on the synthetic drive, and Prometheus."""
    folder = tmp_path_factory.mktemp("prometheus")
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("decoder", "camera-left", "camera-right")}
    with ExitStack() as stack:
        server = Prometheus(f"127.0.0.1:{free_port()}")
        shutil.copy(PROMETHEUS / "rules.yml", folder)
        config = folder / "prometheus.yml"
        config.write_text(on_this_machine((PROMETHEUS / "prometheus.yml").read_text(), addresses))
        promtool("check", "config", str(config))
        log = stack.enter_context((folder / "log").open("w+"))
        # Before the rig, as whoever starts everything at once.
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={server.address}",
                "--log.level=warn",
            ],
            stderr=log,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)

        def start(name: str, module: str, *flags: object) -> Process:
            service = Process(module, "--metrics-listen", addresses[name], "--threads", 1, *flags)
            stack.callback(service.end)
            return service

        # With an archive, for what is shown of it; the cameras are live all the same.
        decoder = start("decoder", "decoder_service", "--archive", folder / "archive")
        address = ("--decoder", f"127.0.0.1:{decoder.port()}")
        common = ("encoder_service", *address, "--fps", FPS, "--epoch", int(time.time()) + START_S)
        right = ("--source", "synthetic:right", "--camera", "right", "--role", "side-information")
        nodes = [
            start("camera-right", *common, *right),
            start("camera-left", *common, "--source", "synthetic:left"),
        ]
        for node in nodes:
            node.port()
        yield server
        log.seek(0)
        assert process.poll() is None
        assert "level=error" not in log.read()


def until_none(find: Callable[[], Collection[object]]) -> None:
    """What is looked for is found no more."""
    deadline_s = time.monotonic() + PATIENCE_S
    while found := find():
        assert time.monotonic() < deadline_s, found
        time.sleep(1)


def empty(prometheus: Prometheus) -> list[str]:
    """Queries of the dashboard that give no number."""
    return [
        query
        for query, expression in expressions().items()
        if not any(map(math.isfinite, prometheus.values(expression)))
    ]


def test_a_rig_fills_the_dashboard(watched: Prometheus) -> None:
    asked = expressions()
    excused = {metric: [query for query in asked if metric in asked[query]] for metric in MAY_BE_EMPTY}
    assert all(excused.values()), excused
    may_be_empty = {query for queries in excused.values() for query in queries}
    until_none(lambda: set(empty(watched)) - may_be_empty)


def test_services_are_watched_under_their_names(watched: Prometheus) -> None:
    expected = {("decoder", "decoder"), ("camera", "camera-left"), ("camera", "camera-right")}

    def up() -> set[tuple[str, str]]:
        targets = watched.get("targets", state="active")["activeTargets"]
        return {(one["labels"]["job"], one["labels"]["instance"]) for one in targets if one["health"] == "up"}

    # A busy machine may be late with one answer.
    until_none(lambda: up() ^ expected)


def test_a_rig_in_good_order_raises_no_alert(watched: Prometheus) -> None:
    """Not even a pending one: a rule is not kept quiet by its `for` alone."""
    rules = watched.rules("alert")
    assert {rule["name"] for rule in rules} == set(alerts())
    until_none(lambda: [rule["query"] for rule in rules if watched.values(rule["query"])])
    assert not [one for one in watched.get("alerts")["alerts"] if one["state"] == "firing"]
    for rule in watched.rules("alert") + watched.rules("record"):
        assert rule["health"] == "ok", rule
        assert not rule.get("lastError"), rule


def test_limits_are_those_that_services_are_given(watched: Prometheus) -> None:
    decoder, node = DecoderSettings.model_fields, EncoderSettings.model_fields
    compose = (ROOT / "docker-compose.yml").read_text()
    memory = {
        job: re.search(rf"^x-{job}: (?:.*\n)+?  mem_limit: (\d+)g$", compose, re.MULTILINE)
        for job in ("decoder", "camera")
    }
    limits = {
        "ndsc:credit_frames": decoder["credit_frames"].default,
        "ndsc:pair_tolerance_seconds": decoder["pair_tolerance_ms"].default / 1000,
        "ndsc:archive_capacity_bytes": decoder["archive_capacity_mbytes"].default << 20,
        "ndsc:spool_capacity_bytes": node["spool_capacity_mbytes"].default << 20,
    } | {
        f'ndsc:memory_limit_bytes{{job="{job}"}}': int(found[1]) << 30
        for job, found in memory.items()
        if found
    }
    assert {limit: watched.values(limit) for limit in limits} == {
        limit: [value] for limit, value in limits.items()
    }
    recorded = {rule["name"] for rule in watched.rules("record")}
    assert {limit.partition("{")[0] for limit in limits} == recorded


@pytest.mark.parametrize(("variable", "choices"), [("rig", ["rig"]), ("camera", ["left", "right"])])
def test_variables_offer_the_rig_and_its_cameras(
    watched: Prometheus, variable: str, choices: list[str]
) -> None:
    (text,) = (one["query"]["query"] for one in dashboard()["templating"]["list"] if one["name"] == variable)
    asked = re.fullmatch(r"label_values\((.*), (\w+)\)", text)
    assert asked
    assert (
        watched.get(f"label/{asked[2]}/values", **{"match[]": asked[1].replace("$rig", "(rig)")}) == choices
    )
