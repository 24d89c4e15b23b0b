"""The artefact between training and serving: clip contract, bundle, engines, decision rule."""
