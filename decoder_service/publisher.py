"""What becomes of a finished picture: it is counted, handed to subscribers, and may serve as side information."""

from __future__ import annotations

import google_crc32c

from decoder_service.metrics import DecoderMetrics
from decoder_service.outputs import Hub, Picture
from decoder_service.side_information import SideFrame, SideInformationStore
from decoder_service.streams import Account, StreamRegistry
from ndsc.service.history import History
from ndsc.v1 import types_pb2


class Publisher:
    """Publishes pictures of live and of stored frames alike."""

    def __init__(
        self,
        *,
        hub: Hub,
        store: SideInformationStore,
        registry: StreamRegistry,
        history: History,
        metrics: DecoderMetrics,
    ) -> None:
        self._hub = hub
        self._store = store
        self._registry = registry
        self._history = history
        self._metrics = metrics

    def publish(self, picture: Picture, account: Account) -> None:
        """Count a picture as decoded and let others have it, in one step. Never waits."""
        account.decoded += 1
        self._metrics.decoded(
            account.key,
            picture.decode_us,
            picture.capture_time_us if account.clock_is_disciplined else None,
        )
        self._record(picture)
        if self._registry.serves_as_side_information(picture.rig, picture.camera):
            self._store.put(picture.rig, picture.camera, SideFrame(picture.image, picture.capture_time_us))
        self._hub.publish(picture)

    def _record(self, picture: Picture) -> None:
        if not self._history.enabled:
            return
        use = picture.side_information
        self._history.record(
            "decoded",
            kind="camera",
            rig=picture.rig,
            camera=picture.camera,
            session=picture.session_id.hex(),
            sequence=picture.sequence,
            capture_time_us=picture.capture_time_us,
            level=picture.compressed.rate_level,
            crc=google_crc32c.value(picture.compressed.payload),
            outcome=types_pb2.SideInformationOutcome.Name(use.outcome)
            .removeprefix("SIDE_INFORMATION_OUTCOME_")
            .lower(),
            stream=use.stream,
            y_time_us=picture.capture_time_us + use.offset_us if use.stream else None,
            age_us=picture.decode_us,
            image=google_crc32c.value(picture.image.tobytes()),
        )
