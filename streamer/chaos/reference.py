"""What an undisturbed service would write for the messages in the topic: computed again, frame by frame, from the same bundle."""

from collections.abc import Sequence

import numpy as np

from deploy.bundle import Bundle
from deploy.decision import Observation, OpenEvent, decide
from deploy.engine import EngineRequest, State
from deploy.image import decode_image
from deploy.registry import load_engine
from streamer.chaos.audit import Effect
from streamer.chaos.messages import Frame, Message
from streamer.config import Settings, camera_thresholds, decision_rule
from streamer.types import event_id


class Reference:
    """The effects of messages, in the order in which they are added; one camera's messages lie in one partition."""

    def __init__(self, bundle: Bundle, settings: Settings, pictures: Sequence[bytes]) -> None:
        self._engine = load_engine(bundle, EngineRequest(threads=1))
        self._rule = decision_rule(settings, camera_thresholds(settings, "", bundle.calibration))
        self._frames = [np.asarray(decode_image(picture, bundle.spec).frame) for picture in pictures]
        self._states: dict[str, State | None] = {}
        self._open: dict[str, OpenEvent | None] = {}
        self.effects: list[tuple[Effect, float | None]] = []

    def add(self, message: Message) -> None:
        """A message that follows those that were added before."""
        if message.frame is None:
            self.effects.append((Effect("letter", "", message.partition, message.offset), None))
        else:
            self._add_frame(message.frame)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _add_frame(self, frame: Frame) -> None:
        info, camera_id = frame.info, frame.info.camera_id
        scores = self._engine.score(self._frames[frame.picture][np.newaxis, np.newaxis], self._states.get(camera_id))
        self._states[camera_id], score = scores.state, float(scores.score[0])
        self.effects.append((Effect("score", camera_id, info.partition.number, info.offset), score))
        observation = Observation(event_id(info), info.captured_at_ms, score)
        self._open[camera_id], changes = decide(self._rule, self._open.get(camera_id), observation)
        for change in changes:
            detail = f"{change.event.event_id} {change.kind}"
            self.effects.append((Effect("event", camera_id, info.partition.number, info.offset, detail), None))
