"""What must not be loaded: it reports to OpenVINO's makers."""

raise RuntimeError("this would be reported")
