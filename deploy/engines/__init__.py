"""One backend a file: the only places that import that backend's library for serving."""
