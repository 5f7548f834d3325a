"""Files, processes and signals: what every room may use."""
