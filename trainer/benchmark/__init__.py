"""The papers' protocols, run and compared with published figures."""
