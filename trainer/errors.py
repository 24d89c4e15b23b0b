"""Errors of training and evaluation, under the root of ``deploy.errors``.

OddsightError
└── TrainerError
    ├── NoFootage             nothing usable was found where footage was expected
    ├── TooLittleFootage      some footage, but fewer frames than the step needs; names how many
    ├── BadLabels             frame labels are missing or do not fit the footage
    ├── BadFeedback           what operators marked cannot be read, or does not fit the footage; names line, value and rule
    ├── BadShape              samples of a shape that the model cannot take; names shape and rule
    ├── BadDataset            a benchmark's data are missing, damaged or something else; names file and rule
    ├── BadRunFile            the file that a benchmark writes its finished runs to is something else
    ├── RunsUnfinished        runs of a benchmark diverged, or lost their process; the finished ones are kept
    ├── TrainingDiverged      a loss is no longer a finite number; names step and term
    └── CheckpointUnusable    a checkpoint is damaged or belongs to another run
"""

from deploy.errors import OddsightError


class TrainerError(OddsightError):
    """Root of the errors of this package."""


class NoFootage(TrainerError):
    """No usable footage was found."""


class TooLittleFootage(TrainerError):
    """There are fewer frames than the step needs."""


class BadLabels(TrainerError):
    """Frame labels are missing or do not fit the footage."""


class BadFeedback(TrainerError):
    """What operators marked cannot be read, or does not fit the footage."""


class BadShape(TrainerError):
    """Samples have a shape that the model cannot take."""


class BadDataset(TrainerError):
    """The data of a benchmark are missing, damaged or something else."""


class BadRunFile(TrainerError):
    """The file for the finished runs of a benchmark is something else, or cannot be written."""


class RunsUnfinished(TrainerError):
    """Runs of a benchmark did not finish."""


class TrainingDiverged(TrainerError):
    """A loss is no longer a finite number."""


class CheckpointUnusable(TrainerError):
    """A checkpoint is damaged or belongs to another run."""
