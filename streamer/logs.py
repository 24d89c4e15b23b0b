"""Logs: one line an entry on stderr; for people on a terminal, JSON elsewhere."""

import logging
import sys

import structlog


def configure_logs(level: int = logging.INFO) -> None:
    """Set structlog up for entries from ``level`` on. Called once, by the command line."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
