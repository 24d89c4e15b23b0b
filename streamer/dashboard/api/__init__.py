"""The JSON API under ``/api/v1``; its documentation is ``/api/v1/openapi.json``."""
