"""Metrics of both services: what they count, that strangers cannot make them many, and that each is documented."""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from decoder_service import metrics as decoder_metrics
from decoder_service.batching import Run
from decoder_service.metrics import READINGS as DECODER_READINGS
from decoder_service.metrics import DecoderMetrics
from decoder_service.settings import DecoderSettings
from decoder_service.streams import StreamKey
from encoder_service import metrics as node_metrics
from encoder_service.account import DropReason
from encoder_service.metrics import READINGS as NODE_READINGS
from encoder_service.metrics import NodeMetrics
from encoder_service.settings import EncoderSettings
from ndsc.service.errors import PAYLOAD_CORRUPT, SESSION_LIMIT, ListenError
from ndsc.service.metrics import MetricsServer, Readings, new_registry
from ndsc.service.sqlite import StoreError
from ndsc.v1 import catalog_pb2, types_pb2
from ndsc.v1.types_pb2 import SideInformationUse

METRICS = Path(__file__).resolve().parents[2] / "docs" / "METRICS.md"
KEY = StreamKey(catalog_pb2.STREAM_KIND_CAMERA, "rig", "left")


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(name, labels)
    assert found is not None, f"{name}{labels} is not shown"
    return found


def exported(registry: CollectorRegistry) -> set[str]:
    """The names of our metrics as Prometheus knows them, without those of a histogram's parts."""
    suffixes = {"counter": "_total", "info": "_info"}
    return {
        metric.name + suffixes.get(metric.type, "")
        for metric in registry.collect()
        if metric.name.startswith("ndsc_")
    }


def documented() -> dict[str, tuple[str, ...]]:
    """Name → labels."""
    rows = re.findall(r"^\| `(ndsc_\w+)` \|([^|]*)\|[^|]{10,}\|[^|]*\|$", METRICS.read_text(), re.MULTILINE)
    return {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


async def everything() -> tuple[DecoderMetrics, NodeMetrics]:
    """Both with every metric that they can show."""
    decoder, node = DecoderMetrics(max_streams=4), NodeMetrics()
    decoder.build(version="1", provider="cpu")
    node.build(version="1", rig="rig", camera="left", role="camera", delivery="live")
    for decoder_reading in DECODER_READINGS:
        decoder.watch(decoder_reading, lambda: 1.0)
    for node_reading in NODE_READINGS:
        node.watch(node_reading, lambda: 1.0)
    return decoder, node


async def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    decoder, node = await everything()
    names = await asyncio.to_thread(lambda: exported(decoder.registry) | exported(node.registry))
    assert names == set(documented())


async def test_labels_are_documented() -> None:
    decoder, node = await everything()
    decoder.received(KEY, 1)
    decoder.failed(KEY, PAYLOAD_CORRUPT)
    decoder.refused(SESSION_LIMIT)
    decoder.paired(KEY, SideInformationUse(outcome=types_pb2.SIDE_INFORMATION_OUTCOME_ABSENT))
    with decoder.stage("unpack"):
        pass
    node.captured()
    node.dropped("age", 1)
    node.failed("PAYLOAD_CORRUPT")
    families = await asyncio.to_thread(lambda: [*decoder.registry.collect(), *node.registry.collect()])
    shown = {
        sample.name.removesuffix("_sum"): set(sample.labels)
        for family in families
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_count"))
    }
    for name, labels in documented().items():
        assert shown[name] == set(labels), name


def test_label_values_are_documented() -> None:
    rows = {line.split("`")[1]: line for line in METRICS.read_text().splitlines() if line.startswith("| `")}
    for name, values in (
        ("ndsc_decoder_frames_total", get_args(decoder_metrics.Outcome)),
        ("ndsc_decoder_stage_seconds", get_args(decoder_metrics.Stage)),
        ("ndsc_node_frames_total", get_args(node_metrics.Outcome)),
        ("ndsc_node_dropped_frames_total", get_args(DropReason)),
    ):
        assert values
        assert [value for value in values if f"`{value}`" not in rows[name]] == [], name


def test_documented_flags_exist() -> None:
    known = {name.replace("_", "-") for s in (DecoderSettings, EncoderSettings) for name in s.model_fields}
    named = set(re.findall(r"--([a-z][a-z-]+)", METRICS.read_text()))
    assert len(named) > 5
    assert named <= known


def test_what_the_decoder_counts() -> None:
    metrics = DecoderMetrics(max_streams=4)
    frames = {"kind": "camera", "rig": "rig", "camera": "left"}
    for size in (100, 50, 7):
        metrics.received(KEY, size)
    metrics.decoded(KEY, 30_000, None)
    metrics.failed(KEY, PAYLOAD_CORRUPT)
    metrics.abandoned(KEY, 1)
    metrics.dropped(KEY, 5)
    metrics.stored(KEY, fresh=True)
    metrics.stored(KEY, fresh=False)
    outcomes = {
        "received": 3,
        "decoded": 1,
        "failed": 1,
        "abandoned": 1,
        "dropped": 5,
        "stored": 1,
        "duplicate": 1,
    }
    shown = {
        outcome: value(metrics.registry, "ndsc_decoder_frames_total", **frames, outcome=outcome)
        for outcome in outcomes
    }
    assert shown == outcomes
    assert value(metrics.registry, "ndsc_decoder_payload_bytes_total", **frames) == 157
    assert value(metrics.registry, "ndsc_decoder_failed_frames_total", reason="PAYLOAD_CORRUPT") == 1
    assert value(metrics.registry, "ndsc_decoder_frame_age_seconds_sum") == pytest.approx(0.03)
    # No clock tells how old the frame was when it came.
    assert value(metrics.registry, "ndsc_decoder_capture_age_seconds_count") == 0


def test_the_age_since_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decoder_service.metrics.time.time", lambda: 1_000.25)
    metrics = DecoderMetrics(max_streams=4)
    metrics.decoded(KEY, 30_000, 1_000_000_000)
    assert value(metrics.registry, "ndsc_decoder_capture_age_seconds_sum") == pytest.approx(0.25)


def test_pairing_and_runs_of_the_network() -> None:
    metrics = DecoderMetrics(max_streams=4)
    for offset_us in (-20_000, 30_000):
        paired = types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED
        metrics.paired(KEY, SideInformationUse(outcome=paired, offset_us=offset_us))
    metrics.paired(KEY, SideInformationUse(outcome=types_pb2.SIDE_INFORMATION_OUTCOME_ABSENT))
    metrics.ran(Run(waited_s=(0.25, 0.5, 0.0), network_s=2.0))
    shown = metrics.registry
    assert value(shown, "ndsc_decoder_pairings_total", outcome="paired") == 2
    assert value(shown, "ndsc_decoder_pairings_total", outcome="absent") == 1
    assert value(shown, "ndsc_decoder_side_information_offset_seconds_sum") == pytest.approx(0.05)
    assert value(shown, "ndsc_decoder_batch_frames_sum") == 3
    assert value(shown, "ndsc_decoder_stage_seconds_sum", stage="wait") == 0.75
    assert value(shown, "ndsc_decoder_stage_seconds_count", stage="network") == 1


def test_strangers_cannot_make_series_without_end() -> None:
    """Streams come and go under new names; one that stays active keeps its count."""
    metrics = DecoderMetrics(max_streams=8)
    for number in range(1000):
        metrics.received(KEY, 1)
        metrics.dropped(StreamKey(KEY.kind, "rig", f"camera-{number}"), 1)
        metrics.received(StreamKey(catalog_pb2.STREAM_KIND_SIDE_INFORMATION, "rig", f"side-{number}"), 1)
    lines = [line for line in generate_latest(metrics.registry).decode().splitlines() if "camera=" in line]
    assert len(lines) <= 8 * 8
    assert {line.split('camera="')[1].split('"')[0] for line in lines} == {
        "left", *(f"{kind}-{number}" for kind in ("camera", "side") for number in (997, 998, 999)), "side-996"
    }  # fmt: skip
    labels = {"kind": "camera", "rig": "rig", "camera": "left", "outcome": "received"}
    assert value(metrics.registry, "ndsc_decoder_frames_total", **labels) == 1000


def test_what_a_node_counts() -> None:
    metrics = NodeMetrics()
    metrics.captured()
    metrics.coded(0.5)
    metrics.sent(100, again=False)
    metrics.sent(100, again=True)
    metrics.acknowledged(3)
    metrics.round_trip(0.25)
    metrics.failed("PAYLOAD_CORRUPT")
    metrics.dropped("age", 2)
    metrics.unknown()
    metrics.connected()
    outcomes = {
        "captured": 1, "sent": 1, "resent": 1, "acknowledged": 3, "failed": 1, "dropped": 2, "unknown": 1
    }  # fmt: skip
    for outcome, count in outcomes.items():
        assert value(metrics.registry, "ndsc_node_frames_total", outcome=outcome) == count, outcome
    assert value(metrics.registry, "ndsc_node_dropped_frames_total", why="age") == 2
    assert value(metrics.registry, "ndsc_node_sent_bytes_total") == 200
    assert value(metrics.registry, "ndsc_node_encode_seconds_sum") == 0.5
    assert value(metrics.registry, "ndsc_node_round_trip_seconds_sum") == 0.25
    assert value(metrics.registry, "ndsc_node_connections_total") == 1


@pytest.fixture
def server() -> Iterator[tuple[Readings, MetricsServer]]:
    registry = new_registry()
    readings = Readings(registry)
    metrics = MetricsServer.start("127.0.0.1:0", registry)
    yield readings, metrics
    metrics.close()


def get(server: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


async def test_readings_are_taken_on_the_event_loop(server: tuple[Readings, MetricsServer]) -> None:
    readings, metrics = server
    threads: list[int] = []

    def read() -> float:
        threads.append(threading.get_ident())
        return 42.0

    readings.watch("ndsc_reading", "A reading", read)
    text = await asyncio.to_thread(get, metrics)
    assert "# TYPE ndsc_reading gauge\nndsc_reading 42.0" in text
    assert "process_resident_memory_bytes" in text
    assert threads == [threading.get_ident()]


async def test_a_reading_that_cannot_be_had_is_missing(server: tuple[Readings, MetricsServer]) -> None:
    readings, metrics = server

    def closed() -> float:
        raise StoreError("the store is closed")

    readings.watch("ndsc_closed", "A reading", closed)
    readings.watch("ndsc_reading", "A reading", lambda: 42.0)
    text = await asyncio.to_thread(get, metrics)
    assert "ndsc_closed" not in text
    assert "ndsc_reading 42.0" in text


def test_an_event_loop_that_has_ended_leaves_the_rest(server: tuple[Readings, MetricsServer]) -> None:
    readings, metrics = server

    async def watch() -> None:
        readings.watch("ndsc_reading", "A reading", lambda: 42.0)

    asyncio.run(watch())
    text = get(metrics)
    assert "ndsc_reading" not in text
    assert "process_resident_memory_bytes" in text


def test_addresses_that_cannot_be_had(server: tuple[Readings, MetricsServer]) -> None:
    taken = f"127.0.0.1:{server[1].port}"
    for address in (taken, "nonsense", "192.0.2.1:9000"):
        with pytest.raises(ListenError, match=re.escape(f"cannot serve metrics at {address}")):
            MetricsServer.start(address, new_registry())


def test_several_servers_in_one_process_show_their_own() -> None:
    first, second = DecoderMetrics(max_streams=1), DecoderMetrics(max_streams=1)
    first.refused(SESSION_LIMIT)
    for metrics, shown in ((first, True), (second, False)):
        server = MetricsServer.start("127.0.0.1:0", metrics.registry)
        try:
            assert ('ndsc_decoder_refused_calls_total{reason="SESSION_LIMIT"} 1.0' in get(server)) is shown
        finally:
            server.close()
