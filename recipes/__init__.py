"""One YAML file a search; `weft search NAME` finds them by name."""
