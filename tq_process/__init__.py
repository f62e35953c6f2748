"""Operating-system support for every process of tq: streams, descriptors, ports, signals."""
