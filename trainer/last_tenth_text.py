"""The report on the last tenth in words."""

from collections.abc import Iterator

from trainer.last_tenth import JSON_NAME, MOST_PICTURES, PICTURES_NAME, LastTenth
from trainer.moments import Moment


def last_tenth_lines(found: LastTenth, threshold: float) -> Iterator[str]:
    """What the screen shows of ``found``, line by line; ``threshold`` in score units."""
    events, minutes = found.facts.events, found.facts.last_tenth_hours * 60
    yield (
        f"the last tenth of the footage, {minutes:.1f} minutes that were neither learned from nor calibrated on, has "
        f"{events or 'no'} event{'' if events == 1 else 's'} at the threshold {threshold:.3g}; its most unusual moments:"
    )
    for number, moment in enumerate(found.moments[:MOST_PICTURES], 1):
        yield f"  {number}. {_moment(moment, found.fps, threshold)}"
    yield f"pictures with heat maps in {PICTURES_NAME}/, all moments in {JSON_NAME}"
    yield f"was the footage enough? {found.judgement.text}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds from the start of a clip, such as 1:02:03.4."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}"


def _moment(moment: Moment, fps: float, threshold: float) -> str:
    peak = f"score {moment.peak_score:.3g} at {clock(moment.peak_frame / fps)} (frame {moment.peak_frame})"
    if not moment.announced:
        return f"{moment.clip}: {'too short for an' if moment.peak_score >= threshold else 'no'} event, {peak}"
    return f"{moment.clip}: {clock(moment.first_frame / fps)} to {clock(moment.last_frame / fps)}, {peak}"
