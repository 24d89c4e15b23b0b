"""Errors of training and evaluation. Their messages name what is wrong, the rule, and what to do."""

from deploy.errors import OddsightError


class TrainerError(OddsightError):
    """Base of the errors of this package."""


class NoFootage(TrainerError):
    """No usable footage was found."""


class TooLittleFootage(TrainerError):
    """There are fewer frames than needed."""


class OutputRefused(TrainerError):
    """What would be written has no room there, or would replace what belongs to another camera."""


class BadLabels(TrainerError):
    """Frame labels are missing or do not fit the footage."""


class BadFeedback(TrainerError):
    """Annotations of operators cannot be read or do not fit the footage."""


class BadShape(TrainerError):
    """The model cannot take samples of this shape."""


class BadDataset(TrainerError):
    """Benchmark data are missing, damaged or in another format."""


class BadRunFile(TrainerError):
    """The file of finished benchmark runs cannot be read or written, or contains something else."""


class RunsUnfinished(TrainerError):
    """Benchmark runs diverged, or their process was killed. Finished runs are kept."""


class TrainingDiverged(TrainerError):
    """A loss, gradient or score is not finite."""


class CheckpointUnusable(TrainerError):
    """A checkpoint is damaged or belongs to another run."""
