"""The commands as they are installed. The program itself is in ``deploy``, ``streamer`` and ``trainer``."""
