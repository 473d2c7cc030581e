"""What can be built: graphs, operations, architectures, search spaces, networks."""
