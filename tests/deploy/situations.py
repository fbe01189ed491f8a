"""A rig as Prometheus sees it, in good order and in every kind of trouble, and the alerts that each calls for.

Series are written as `promtool test rules` takes them: one value each `STEP_S`, for `MINUTES`. Trouble begins
at `BEGIN_MINUTE` and stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

STEP_S: Final = 15
MINUTES: Final = 30
BEGIN_MINUTE: Final = 10
SEEN_MINUTE: Final = 29
"""When trouble must have been noticed."""
RULES_EVERY_S: Final = 30

_STEPS: Final = MINUTES * 60 // STEP_S
_BEGIN: Final = BEGIN_MINUTE * 60 // STEP_S
_DAY_S: Final = 86_400
_MIB: Final = 1 << 20
_FPS: Final = 10

DECODER: Final = 'job="decoder", instance="decoder"'
LEFT: Final = 'job="camera", instance="camera-left"'
RIGHT: Final = 'job="camera", instance="camera-right"'
PROXY: Final = 'job="proxy", instance="proxy"'
_LEFT_STREAM: Final = 'kind="camera", rig="rig", camera="left"'
_RIGHT_STREAM: Final = 'kind="side_information", rig="rig", camera="right"'


def gauge(before: float, then: float | None = None) -> str:
    """One value, and another when trouble begins."""
    return f"{before:g}x{_BEGIN - 1} {before if then is None else then:g}x{_STEPS - _BEGIN}"


def counter(before: float, then: float | None = None) -> str:
    """What grows so much a second."""
    grown, more = before * STEP_S, (before if then is None else then) * STEP_S
    return f"0+{grown:g}x{_BEGIN - 1} {grown * _BEGIN:g}+{more:g}x{_STEPS - _BEGIN}"


def first_seen(per_s: float) -> str:
    """A counter that is not shown before its first event, as those by reason are."""
    return f"_x{_BEGIN} 1+{per_s * STEP_S:g}x{_STEPS - _BEGIN}"


def gone(before: str = "1") -> str:
    """What is not shown any more."""
    return f"{before}x{_BEGIN - 1} stale"


def at_start(*, first: float, then: float, seconds: float) -> str:
    """One value for the first seconds, then another."""
    steps = round(seconds / STEP_S)
    return f"{first:g}x{steps - 1} {then:g}x{_STEPS - steps}"


def name(metric: str, *labels: str) -> str:
    """A series as promtool writes it."""
    return f"{metric}{{{', '.join(labels)}}}"


def _process(labels: str) -> dict[str, str]:
    return {
        name("up", labels): gauge(1),
        name("process_start_time_seconds", labels): gauge(1000),
        name("process_resident_memory_bytes", labels): gauge(400 * _MIB),
        name("process_open_fds", labels): gauge(60),
        name("process_max_fds", labels): gauge(1024),
    }


def _node(labels: str, camera: str, role: str) -> dict[str, str]:
    build = f'version="1", rig="rig", camera="{camera}", role="{role}", delivery="archive"'
    return _process(labels) | {
        name("ndsc_node_build_info", labels, build): gauge(1),
        name("ndsc_node_connected", labels): gauge(1),
        name("ndsc_node_connections_total", labels): gauge(1),
        name("ndsc_node_frames_total", labels, 'outcome="captured"'): counter(_FPS),
        name("ndsc_node_encode_seconds_sum", labels): counter(0.3),
        name("ndsc_node_spool_bytes", labels): gauge(2 * _MIB),
        name("ndsc_node_spool_full", labels): gauge(0),
        name("ndsc_node_certificate_expiry_timestamp_seconds", labels): gauge(90 * _DAY_S),
    }


def _stage(stage: str, mean_s: float, then: float | None = None) -> dict[str, str]:
    labels = (DECODER, f'stage="{stage}"')
    return {
        name("ndsc_decoder_stage_seconds_sum", *labels): counter(
            _FPS * mean_s, None if then is None else _FPS * then
        ),
        name("ndsc_decoder_stage_seconds_count", *labels): counter(_FPS),
    }


def _frame_age(within_1_s: float, then: float | None = None) -> dict[str, str]:
    """`within_1_s`: share of pictures that are a second old at most; the others are at most ten."""
    metric, late = "ndsc_decoder_frame_age_seconds_bucket", None if then is None else _FPS * then
    return {
        name(metric, DECODER, 'le="1.0"'): counter(_FPS * within_1_s, late),
        name(metric, DECODER, 'le="10.0"'): counter(_FPS),
        name(metric, DECODER, 'le="+Inf"'): counter(_FPS),
    }


def _offset(mean_s: float, then: float | None = None) -> dict[str, str]:
    metric = "ndsc_decoder_side_information_offset_seconds"
    return {
        name(f"{metric}_sum", DECODER): counter(_FPS * mean_s, None if then is None else _FPS * then),
        name(f"{metric}_count", DECODER): counter(_FPS),
    }


def _pairings(absent: float, then: float | None = None) -> dict[str, str]:
    """`absent`: share of frames."""
    metric, later = "ndsc_decoder_pairings_total", absent if then is None else then
    return {
        name(metric, DECODER, 'outcome="absent"'): counter(_FPS * absent, _FPS * later),
        name(metric, DECODER, 'outcome="paired"'): counter(_FPS * (1 - absent), _FPS * (1 - later)),
    }


def _stream(labels: str, outcome: str) -> str:
    return name("ndsc_decoder_frames_total", DECODER, labels, f'outcome="{outcome}"')


def _behind_proxy(server: str) -> str:
    return name("haproxy_server_status", PROXY, f'proxy="decoders", server="{server}", state="UP"')


HEALTHY: Final[Mapping[str, str]] = {
    **_process(DECODER),
    **_node(LEFT, "left", "camera"),
    **_node(RIGHT, "right", "side-information"),
    name("up", PROXY): gauge(1),
    _behind_proxy("decoder-1"): gauge(1),
    _behind_proxy("decoder-2"): gauge(1),
    name("ndsc_decoder_serving", DECODER): gauge(1),
    name("ndsc_decoder_open_cameras", DECODER): gauge(1),
    name("ndsc_decoder_credit_used_frames", DECODER): gauge(1),
    name("ndsc_decoder_subscriber_missed_frames_total", DECODER): gauge(0),
    name("ndsc_decoder_archive_bytes", DECODER): gauge(1024 * _MIB),
    name("ndsc_decoder_archive_waiting_frames", DECODER): gauge(0),
    name("ndsc_decoder_archive_side_frames_lost", DECODER): gauge(0),
    **{_stream(stream, "received"): counter(_FPS) for stream in (_LEFT_STREAM, _RIGHT_STREAM)},
    **{_stream(stream, "failed"): gauge(0) for stream in (_LEFT_STREAM, _RIGHT_STREAM)},
    **_pairings(0),
    **_offset(0.005),
    **_frame_age(1),
    **_stage("wait", 0.01),
    **_stage("network", 0.05),
    **_stage("write", 0.01),
    **_stage("store", 0.01),
}
"""A camera and its side information, for a quarter of an hour and more; ten frames a second."""


@dataclass(frozen=True)
class Situation:
    """What differs from good order, and every alert that then fires."""

    title: str
    changes: Mapping[str, str]
    alerts: tuple[str, ...] = field(default=())
    """Their labels, as `ALERTS` shows them."""

    @property
    def series(self) -> dict[str, str]:
        """All that Prometheus sees."""
        return {**HEALTHY, **self.changes}


def alert(alertname: str, severity: str, *labels: str) -> str:
    """Labels of an alert that fires."""
    return ", ".join((f'alertname="{alertname}"', f'severity="{severity}"', *labels))


def _all_gone(labels: str) -> dict[str, str]:
    return {series: gone() for series in HEALTHY if labels in series}


def _node_drops(why: str, per_s: float) -> dict[str, str]:
    return {name("ndsc_node_dropped_frames_total", LEFT, f'why="{why}"'): first_seen(per_s)}


def _refusals(reason: str) -> str:
    return name("ndsc_decoder_refused_calls_total", DECODER, f'reason="{reason}"')


_LEFT_CAMERA: Final = 'rig="rig", camera="left"'

TROUBLE: Final = (
    Situation(
        "a service does not answer",
        {name("up", DECODER): gauge(1, 0)},
        (alert("NdscServiceDown", "critical", DECODER),),
    ),
    Situation(
        "a container has stopped, and its name is gone",
        _all_gone(LEFT) | {_stream(_LEFT_STREAM, "received"): counter(_FPS, 0)},
        (
            alert("NdscServiceDown", "critical", LEFT),
            alert("NdscCameraSilent", "warning", _LEFT_STREAM),
        ),
    ),
    Situation(
        "a service starts every four minutes",
        {
            name("process_start_time_seconds", LEFT): f"0x{_BEGIN - 1} "
            + " ".join(f"{600 + 240 * number}x{240 // STEP_S - 1}" for number in range(8))
        },
        (alert("NdscServiceRestarting", "critical", LEFT),),
    ),
    Situation(
        "an event loop stands still",
        {name("ndsc_node_connected", RIGHT): gone(), name("ndsc_node_spool_full", RIGHT): gone("0")},
        (alert("NdscServiceStuck", "critical", RIGHT),),
    ),
    Situation(
        "a decoder that cannot decode",
        {name("ndsc_decoder_serving", DECODER): gauge(1, 0)},
        (alert("NdscDecoderNotServing", "critical", DECODER),),
    ),
    Situation(
        "a proxy that is away",
        {name("up", PROXY): gauge(1, 0)} | {_behind_proxy(f"decoder-{number}"): gone() for number in (1, 2)},
        (alert("NdscServiceDown", "critical", PROXY),),
    ),
    Situation(
        "a decoder that its proxy does not reach",
        {_behind_proxy("decoder-2"): gauge(1, 0)},
        (
            alert(
                "NdscDecoderLeftOut",
                "warning",
                PROXY,
                'proxy="decoders", server="decoder-2", state="UP"',
            ),
        ),
    ),
    Situation(
        "a node near its memory limit",
        {name("process_resident_memory_bytes", LEFT): gauge(400 * _MIB, 950 * _MIB)},
        (alert("NdscMemoryHigh", "warning", LEFT),),
    ),
    Situation(
        "a decoder near its memory limit",
        {name("process_resident_memory_bytes", DECODER): gauge(400 * _MIB, 5600 * _MIB)},
        (alert("NdscMemoryHigh", "warning", DECODER),),
    ),
    Situation(
        "a decoder that many connect to",
        {name("process_open_fds", DECODER): gauge(60, 900)},
        (alert("NdscFileDescriptorsHigh", "warning", DECODER),),
    ),
    Situation(
        "a camera without a connection",
        {name("ndsc_node_connected", RIGHT): gauge(1, 0)},
        (
            alert(
                "NdscCameraDisconnected",
                "critical",
                RIGHT,
                'rig="rig", camera="right", role="side-information"',
            ),
        ),
    ),
    Situation(
        "a source without pictures",
        {_stream(_RIGHT_STREAM, "received"): counter(_FPS, 0)},
        (alert("NdscCameraSilent", "warning", _RIGHT_STREAM),),
    ),
    *(
        Situation(
            f"frames dropped: {why}",
            _node_drops(why, 1),
            (alert("NdscFramesDropped", "warning", LEFT, f'why="{why}"'),),
        )
        for why in ("queue", "age", "too_large", "spool_full")
    ),
    Situation(
        "a target that the lowest level does not fit",
        _node_drops("rate", 5),
        (alert("NdscTargetRateTooLow", "info", LEFT),),
    ),
    Situation(
        "a machine that codes without a pause",
        {name("ndsc_node_encode_seconds_sum", LEFT): counter(0.3, 0.97)},
        (alert("NdscCameraOverloaded", "warning", LEFT),),
    ),
    Situation(
        "a link that breaks every two minutes",
        {name("ndsc_node_connections_total", LEFT): f"1x{_BEGIN - 1} 2+0.125x{_STEPS - _BEGIN}"},
        (alert("NdscLinkUnstable", "warning", LEFT),),
    ),
    Situation(
        "a spool that fills",
        {name("ndsc_node_spool_bytes", LEFT): gauge(2 * _MIB, 900 * _MIB)},
        (alert("NdscSpoolFilling", "warning", LEFT),),
    ),
    Situation(
        "a spool that is full",
        {
            name("ndsc_node_spool_bytes", LEFT): gauge(2 * _MIB, 1024 * _MIB),
            name("ndsc_node_spool_full", LEFT): gauge(0, 1),
        },
        (alert("NdscSpoolFilling", "warning", LEFT), alert("NdscSpoolFull", "critical", LEFT)),
    ),
    Situation(
        "five days to the end of a certificate",
        {name("ndsc_node_certificate_expiry_timestamp_seconds", LEFT): gauge(90 * _DAY_S, 5 * _DAY_S)},
        (alert("NdscCertificateExpiring", "warning", LEFT),),
    ),
    Situation(
        "hours to the end of a certificate",
        {name("ndsc_node_certificate_expiry_timestamp_seconds", LEFT): gauge(90 * _DAY_S, 0.2 * _DAY_S)},
        (alert("NdscCertificateEnds", "critical", LEFT),),
    ),
    Situation(
        "a certificate that has ended",
        {name("ndsc_node_certificate_expiry_timestamp_seconds", LEFT): gauge(90 * _DAY_S, 60)},
        (alert("NdscCertificateEnds", "critical", LEFT),),
    ),
    Situation(
        "frames that fail",
        {_stream(_LEFT_STREAM, "failed"): counter(0, 0.5)},
        (alert("NdscFramesFailing", "critical", _LEFT_STREAM),),
    ),
    Situation(
        "stored frames that fail, while none is received",
        {
            _stream(_LEFT_STREAM, "received"): gauge(1000),
            _stream(_LEFT_STREAM, "failed"): counter(0, 0.5),
        },
        (alert("NdscFramesFailing", "critical", _LEFT_STREAM),),
    ),
    Situation(
        "calls that are refused",
        {_refusals("SESSION_LIMIT"): first_seen(0.1)},
        (alert("NdscCallsRefused", "warning", DECODER, 'reason="SESSION_LIMIT"'),),
    ),
    Situation(
        "an archive that takes nothing more",
        {
            _refusals("STORE_FULL"): first_seen(0.1),
            name("ndsc_decoder_archive_bytes", DECODER): gauge(1024 * _MIB, 8192 * _MIB),
        },
        (
            alert("NdscStoreFull", "critical", DECODER),
            alert("NdscArchiveFilling", "warning", DECODER),
        ),
    ),
    Situation(
        "an archive with little room",
        {name("ndsc_decoder_archive_bytes", DECODER): gauge(1024 * _MIB, 7700 * _MIB)},
        (alert("NdscArchiveFilling", "warning", DECODER),),
    ),
    Situation(
        "more is stored than is decoded, and so pictures are late",
        {
            name("ndsc_decoder_archive_waiting_frames", DECODER): counter(0, 2),
            **_frame_age(1, 0),
        },
        (alert("NdscArchiveBacklog", "warning", DECODER),),
    ),
    Situation(
        "side information that is needed goes",
        {name("ndsc_decoder_archive_side_frames_lost", DECODER): counter(0, 1)},
        (alert("NdscSideInformationLost", "warning", DECODER),),
    ),
    Situation(
        "a side camera that is often late",
        _pairings(0, 0.3),
        (alert("NdscSideInformationAbsent", "warning", DECODER),),
    ),
    Situation(
        "clocks that drift apart",
        _offset(0.005, 0.045),
        (alert("NdscClocksApart", "warning", DECODER),),
    ),
    Situation(
        "more frames than the decoder decodes",
        {name("ndsc_decoder_credit_used_frames", DECODER): gauge(1, 4), **_stage("wait", 0.01, 0.3)},
        (alert("NdscDecoderSaturated", "warning", DECODER),),
    ),
    Situation(
        "pictures that are late",
        _frame_age(1, 0.9),
        (alert("NdscPicturesLate", "warning", DECODER),),
    ),
    *(
        Situation(
            f"a slow disk: {stage}",
            _stage(stage, 0.01, 0.4),
            (alert("NdscDiskSlow", "warning", DECODER, f'stage="{stage}"'),),
        )
        for stage in ("write", "store")
    ),
    Situation(
        "a viewer that misses pictures",
        {name("ndsc_decoder_subscriber_missed_frames_total", DECODER): counter(0, 2)},
        (alert("NdscSubscriberSlow", "info", DECODER),),
    ),
)
"""Each alert fires in one of them at least, and nothing fires beside those named."""

CALM: Final = (
    Situation("all is well", {}),
    Situation(
        "a start, with the side camera half a minute after the other",
        {
            name("up", DECODER): at_start(first=0, then=1, seconds=45),
            name("ndsc_decoder_serving", DECODER): at_start(first=0, then=1, seconds=90),
            _behind_proxy("decoder-1"): at_start(first=0, then=1, seconds=90),
            name("ndsc_node_connected", LEFT): at_start(first=0, then=1, seconds=90),
            name("ndsc_node_connected", RIGHT): at_start(first=0, then=1, seconds=90),
            name("ndsc_node_connections_total", LEFT): at_start(first=0, then=1, seconds=90),
            _refusals("NOT_READY"): f"1+1x5 7x{_STEPS - 6}",
            **_pairings(0),
            name("ndsc_decoder_pairings_total", DECODER, 'outcome="absent"'): f"0+150x2 300x{_STEPS - 3}",
        },
    ),
    Situation(
        "the decoder is restarted, and away for a minute",
        {
            name("up", DECODER): f"1x{_BEGIN - 1} 0x3 1x{_STEPS - _BEGIN - 4}",
            name("process_start_time_seconds", DECODER): gauge(1000, 1600),
            name("ndsc_decoder_serving", DECODER): f"1x{_BEGIN - 1} _x4 0 1x{_STEPS - _BEGIN - 5}",
            name("ndsc_node_connected", LEFT): f"1x{_BEGIN - 1} 0x5 1x{_STEPS - _BEGIN - 6}",
            name("ndsc_node_connected", RIGHT): f"1x{_BEGIN - 1} 0x5 1x{_STEPS - _BEGIN - 6}",
            name("ndsc_node_connections_total", LEFT): gauge(1, 2),
            # Live frames, each too old by the time that the decoder is back.
            name("ndsc_node_dropped_frames_total", LEFT, 'why="age"'): f"0x{_BEGIN - 1} 0+150x5 "
            f"750x{_STEPS - _BEGIN - 6}",
            _stream(_LEFT_STREAM, "received"): f"0+150x{_BEGIN - 1} _x5 0+150x{_STEPS - _BEGIN - 5}",
            _stream(_RIGHT_STREAM, "received"): f"0+150x{_BEGIN - 1} _x5 0+150x{_STEPS - _BEGIN - 5}",
        },
    ),
    Situation(
        "the usual: a frame lost or late now and then, and cameras that do not run in step",
        {
            name("ndsc_node_dropped_frames_total", LEFT, 'why="age"'): first_seen(0.1),
            name("ndsc_node_dropped_frames_total", LEFT, 'why="rate"'): first_seen(1),
            name("ndsc_node_encode_seconds_sum", LEFT): counter(0.7),
            name("ndsc_decoder_credit_used_frames", DECODER): gauge(2),
            name("ndsc_decoder_archive_waiting_frames", DECODER): gauge(40),
            name("ndsc_node_certificate_expiry_timestamp_seconds", RIGHT): gauge(8 * _DAY_S),
            **_pairings(0.02),
            **_offset(0.025),
            **_frame_age(0.98),
        },
    ),
    Situation(
        "side information that frames wait for in vain uses up credit, but nothing waits for the network",
        {name("ndsc_decoder_credit_used_frames", DECODER): gauge(1, 4)},
    ),
    Situation(
        "a camera that never came",
        {series: "_" for series in HEALTHY if RIGHT in series or _RIGHT_STREAM in series},
    ),
)
"""Nothing may fire in these, at any time."""
